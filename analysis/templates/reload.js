"use strict";
/* A page that is served while it may be rebuilt: it asks once a second whether it was, and then loads itself again. */
(() => {
  const mine = document.querySelector('meta[name="stamp"]').content;
  const ask = async () => {
    try {
      const answer = await fetch(`${location.pathname}?stamp`, { cache: "no-store" });
      if (answer.ok && (await answer.text()) !== mine) location.reload();
    } catch {
      document.title = document.title.replace(/^(\(no longer served\) )?/, "(no longer served) ");
    }
  };
  setInterval(ask, 1000);
})();
