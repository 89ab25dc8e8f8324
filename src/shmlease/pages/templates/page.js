"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");

  // Light or dark; what was chosen is kept where the browser allows it for this page.
  const theme = document.getElementById("theme");
  theme.hidden = false;
  const remembered = () => { try { return localStorage.getItem("shmlease-theme"); } catch { return null; } };
  if (remembered()) root.dataset.theme = remembered();
  theme.addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("shmlease-theme", root.dataset.theme); } catch { /* a page from a file may not */ }
  });

  // The report itself, to feed to other tools.
  const save = document.getElementById("save");
  save.hidden = false;
  save.addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([document.getElementById("report").textContent], { type: "application/json" }));
    link.download = save.dataset.name;
    link.click();
    URL.revokeObjectURL(link.href);
  });
})();
