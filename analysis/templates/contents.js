"use strict";
/* Folds the contents on narrow screens, marks in them what one reads, and opens what is folded before printing. */
(() => {
  const fold = document.querySelector('nav[aria-label="Contents"] details'), narrow = matchMedia("(max-width: 40rem)");
  const setFold = () => { fold.open = !narrow.matches; };
  narrow.addEventListener("change", setFold);
  setFold();
  const links = new Map([...document.querySelectorAll('nav[aria-label="Contents"] a')].map((a) => [a.hash.slice(1), a]));
  const sections = [...links.keys()].map((id) => document.getElementById(id)).filter(Boolean);
  const mark = () => {
    const top = sections.filter((section) => section.getBoundingClientRect().top < window.innerHeight / 3);
    const now = (top.at(-1) || sections[0] || {}).id;
    for (const [id, link] of links) {
      if (id === now) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  };
  let due = false;
  const soon = () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => { due = false; mark(); });
  };
  window.addEventListener("scroll", soon, { passive: true });
  window.addEventListener("resize", soon);
  window.addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details")) part.open = true;
  });
  mark();
})();
