// What an answer fills asks for it when its tab is seen, after `first` ms, and again until it is there: while the page
// starts, a question or its answer may be lost.
window.jpAsk = (element, ask, answered, first = 0) => {
  new IntersectionObserver((entries, observer) => {
    if (!entries.some(entry => entry.isIntersecting)) return;
    observer.disconnect();
    let left = 6, pause = 2000;
    const again = () => {
      if (!left-- || !element.isConnected || answered()) return;
      ask();
      setTimeout(again, pause);
      pause *= 2;
    };
    setTimeout(again, first);
  }).observe(element.closest('[role=tabpanel]') || element);
};
// The open tab travels with the place in the browser's history: a reload keeps it, Back and Forward go to it.
(() => {
  const FIRST = 'search', button = name => document.querySelector(`button[role=tab][data-tab-id="${name}"]`);
  const placed = () => history.state?.jpTab ?? FIRST;
  let going = false;  // a click of this script, not of a person
  const go = name => {
    going = true;
    button(name)?.click();
    going = false;
  };
  document.addEventListener('click', event => {
    const name = event.target.closest?.('button[role=tab]')?.dataset.tabId;
    if (name && !going && name !== placed()) history.pushState({jpTab: name}, '', location.href);
  }, true);
  // A click before Gradio listens is lost, and its start may undo one: asked until the tab has stayed open for a while.
  let timer = 0;
  const settle = () => {
    let stayed = 0, looks = 0;
    clearInterval(timer);
    timer = setInterval(() => {
      const open = button(placed())?.getAttribute('aria-selected') === 'true';
      stayed = open ? stayed + 1 : 0;
      if (!open) go(placed());
      if (stayed === 5 || ++looks === 600) clearInterval(timer);
    }, 100);
  };
  addEventListener('popstate', settle);
  settle();
  // A session that has ended: the place of the page asks for a password.
  const ask = window.fetch;
  window.fetch = async (...asked) => {
    const answer = await ask(...asked);
    if (answer.status === 401) location.reload();
    return answer;
  };
  // Gradio names its upload otherwise than its text says; a person who speaks what they read would not reach it.
  const named = () => document.querySelectorAll('.upload-container[aria-label]').forEach(one => one.removeAttribute('aria-label'));
  new MutationObserver(named).observe(document.documentElement, {childList: true, subtree: true});
})();
