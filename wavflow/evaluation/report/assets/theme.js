"use strict";

// The button that turns a page dark or light; without a choice the system's setting counts.
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const stored = (value) => {
    try {
      return value ? localStorage.setItem("theme", value) : localStorage.getItem("theme");
    } catch {
      return null; // pages from disk may be denied a store; then the choice lasts as long as the page
    }
  };
  if (["dark", "light"].includes(stored())) root.dataset.theme = stored();
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const show = () => {
      button.textContent = isDark() ? "Light theme" : "Dark theme";
      document.dispatchEvent(new Event("themechange"));
    };
    button.hidden = self !== top; // a frame follows the page that holds it
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      stored(root.dataset.theme);
      show();
    });
    system.addEventListener("change", show);
    addEventListener("storage", ({ key, newValue }) => {
      if (key !== "theme") return;
      root.dataset.theme = newValue ?? "";
      show();
    });
    show();
  });
})();
