"""``python -m roireg.bench DATA``: the same as ``roireg bench DATA``."""

from roireg.app.bench import bench_app

if __name__ == "__main__":
    bench_app(prog_name="python -m roireg.bench")
