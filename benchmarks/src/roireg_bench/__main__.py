"""``python -m roireg_bench DATA``: the same as ``roireg bench DATA``."""

from roireg_bench.cli import bench_app

if __name__ == "__main__":
    bench_app(prog_name="python -m roireg_bench")
