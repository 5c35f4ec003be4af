import { defineConfig } from "vite";

// The pages go straight into the Python package, from where they get into the wheel.
export default defineConfig({
  base: "./",
  build: {
    outDir: "../src/roireg/serve/static",
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    sourcemap: false,
  },
});
