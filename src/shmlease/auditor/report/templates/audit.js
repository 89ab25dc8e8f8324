(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  // Findings: a line unfolds what was seen.
  const unfold = (body, open) => {
    body.classList.toggle("unfolded", open);
    body.querySelector(".fold").setAttribute("aria-expanded", String(open));
  };
  const bodies = all(".findings tbody");
  bodies.forEach((body, position) => {
    unfold(body, position === 0 && bodies.length < 4);
    body.querySelector(".head").addEventListener("click", (event) => {
      if (window.getSelection().isCollapsed || event.target.closest("button")) {
        unfold(body, !body.classList.contains("unfolded"));
      }
    });
  });
  const show = () => {
    const body = /^#f\d+$/.test(location.hash) && document.querySelector(location.hash);
    if (body) {
      body.hidden = false;
      unfold(body, true);
      body.classList.remove("flash");
      void body.offsetWidth; // restarts the animation
      body.classList.add("flash");
    }
  };
  window.addEventListener("hashchange", show);
  show();

  // Findings: sorted by any column, and filtered by rule.
  all(".findings th").forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      all(".findings th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (body) => body.rows[0].cells[column].dataset.key;
      const sorted = [...bodies].sort((a, b) => key(a).localeCompare(key(b)));
      if (down) sorted.reverse();
      head.closest("table").append(...sorted);
    });
  });
  const chips = all(".chip");
  chips.forEach((chip) => chip.addEventListener("click", () => {
    chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
    const wanted = chips.filter((one) => one.getAttribute("aria-pressed") === "true").map((one) => one.dataset.rule);
    bodies.forEach((body) => { body.hidden = wanted.length > 0 && !wanted.includes(body.dataset.rule); });
  }));

  // Timeline: only what leaked.
  const only = document.getElementById("only");
  if (only) only.addEventListener("change", () => {
    document.querySelector(".lanes").classList.toggle("only-leaks", only.checked);
  });
})();
