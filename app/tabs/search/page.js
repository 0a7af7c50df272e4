// The page's address says what is asked: links and Back change it, and each change is told to the page.
window.jepackSearch = (() => {
  let tell = () => {};
  const now = () => location.hash;
  addEventListener('hashchange', () => tell(now()));
  document.addEventListener('click', event => {
    const link = event.target.closest('#jp-desk a[href^="#"]');
    if (link && link.hash === now()) tell(now());  // the same again: the browser tells of no change
  });
  // The form of what to show alone: each field is `only=COLUMN;SIGN;VALUE`.
  document.addEventListener('change', event => {
    const field = event.target.closest('.jp-only [data-only]');
    if (!field) return;
    const sign = field.dataset.sign, column = encodeURIComponent(field.dataset.only);
    const start = `only=${column};${sign ? sign + ';' : ''}`;
    const words = now().slice(1).split('&').filter(word => word && !word.startsWith(start));
    const cut = field.value.indexOf(';');
    if (sign && field.value) words.push(start + encodeURIComponent(field.value));
    if (!sign && field.value)
      words.push(start + field.value.slice(0, cut) + ';' + encodeURIComponent(field.value.slice(cut + 1)));
    location.hash = words.join('&');
  });
  return {
    tell(how) {
      tell = how;
      if (now().length > 1) setTimeout(() => tell(now()), 0);
    },
    // An answer to what the address says completes it; one to an upload, or to another tab, is a new place.
    answered(element) {
      const asked = element.querySelector('.jp-asked');
      if (!asked) return;
      const {address, asked: from} = asked.dataset;
      if (asked.dataset.new && now() !== address) history.pushState(null, '', address);
      else if (!asked.dataset.new && now() === from) history.replaceState(null, '', address);
    },
  };
})();
// A file dropped anywhere on the page, or pasted, goes to the upload; a dropped one would take the page's place.
(() => {
  const bring = files => {
    const input = document.querySelector('#jp-upload input[type=file]');
    if (!input || !files.length) return;
    input.files = files;
    input.dispatchEvent(new Event('change', {bubbles: true}));
  };
  addEventListener('paste', event => {
    if (!event.clipboardData?.files.length) return;
    event.preventDefault();
    bring(event.clipboardData.files);
  });
  const files = event => event.dataTransfer && [...event.dataTransfer.types].includes('Files');
  const mark = on => document.documentElement.classList.toggle('jp-dropping', on);
  addEventListener('dragover', event => {
    if (!files(event)) return;
    event.preventDefault();
    mark(true);
  });
  addEventListener('dragleave', event => { if (!event.relatedTarget) mark(false); });
  addEventListener('drop', event => {
    if (!files(event)) return;
    mark(false);
    if (event.defaultPrevented) return;  // the upload itself took it
    event.preventDefault();
    bring(event.dataTransfer.files);
  });
})();
