// Runs before anything is drawn, so that a dark page never flashes white. The choice is remembered where the browser lets
// a file remember anything.
(() => {
  "use strict";
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  let choice = "auto";
  try { choice = localStorage.getItem("spp-theme") || "auto"; } catch { /* a file may have no storage */ }
  const apply = () => {
    root.dataset.theme = choice === "auto" ? (dark.matches ? "dark" : "light") : choice;
    root.dataset.choice = choice;
    document.dispatchEvent(new Event("themechange"));
  };
  dark.addEventListener("change", apply);
  document.addEventListener("choosetheme", (event) => {
    choice = event.detail;
    try { localStorage.setItem("spp-theme", choice); } catch { /* then only until the page is closed */ }
    apply();
  });
  addEventListener("beforeprint", () => { root.dataset.theme = "light"; document.dispatchEvent(new Event("themechange")); });
  addEventListener("afterprint", apply);
  apply();
})();
