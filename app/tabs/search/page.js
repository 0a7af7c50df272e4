// A file dropped anywhere on the page goes to the upload, instead of taking the page's place in the browser.
(() => {
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
    const input = document.querySelector('#jp-upload input[type=file]');
    if (!input) return;
    input.files = event.dataTransfer.files;
    input.dispatchEvent(new Event('change', {bubbles: true}));
  });
})();
