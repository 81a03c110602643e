// The chosen theme, before the first paint. Without a choice the system's holds.
(() => {
  "use strict";
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const kept = () => {
    try {
      return localStorage.getItem("theme");
    } catch {
      return null; // a browser may refuse storage to a local file
    }
  };
  const isDark = () => (root.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";

  if (["light", "dark"].includes(kept())) root.dataset.theme = kept();

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const changed = () => {
      button.textContent = isDark() ? "Light" : "Dark";
      document.dispatchEvent(new Event("theme"));
    };
    button.hidden = false;
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      try {
        localStorage.setItem("theme", root.dataset.theme);
      } catch {
        // it holds for this page
      }
      changed();
    });
    dark.addEventListener("change", changed);
    changed();
  });
})();
