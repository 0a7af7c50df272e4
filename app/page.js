// The open tab travels with the place in the browser's history: a reload keeps it, Back and Forward go to it.
(() => {
  const FIRST = 'search', button = name => document.querySelector(`button[role=tab][data-tab-id="${name}"]`);
  const placed = () => history.state?.jpTab ?? FIRST;
  let going = false;  // a click of this script, not of a person
  const go = name => {
    const one = button(name);
    if (!one || one.getAttribute('aria-selected') === 'true') return Boolean(one);
    going = true;
    one.click();
    going = false;
    return true;
  };
  document.addEventListener('click', event => {
    const name = event.target.closest?.('button[role=tab]')?.dataset.tabId;
    if (name && !going && name !== placed()) history.pushState({jpTab: name}, '', location.href);
  }, true);
  addEventListener('popstate', () => go(placed()));
  // Gradio names its upload otherwise than its text says; a person who speaks what they read would not reach it.
  const named = () => document.querySelectorAll('.upload-container[aria-label]').forEach(one => one.removeAttribute('aria-label'));
  new MutationObserver(named).observe(document.documentElement, {childList: true, subtree: true});
  // After a reload: once the tabs are there.
  const waiting = new MutationObserver(() => { if (button(FIRST) && go(placed())) waiting.disconnect(); });
  waiting.observe(document.documentElement, {childList: true, subtree: true});
})();
