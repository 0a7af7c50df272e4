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
      else if (!asked.dataset.new && now() === from) history.replaceState(history.state, '', address);
    },
  };
})();
// A file dropped anywhere on the page, pasted, or taken by a camera, goes to the upload; a dropped one would take the page's place.
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

  // Browsers lend a camera to pages of this machine and of https alone; elsewhere the button is not shown.
  const cameras = navigator.mediaDevices?.getUserMedia && navigator.mediaDevices;
  document.documentElement.classList.toggle('jp-has-camera', Boolean(cameras));
  const make = (name, more, ...inside) => {
    const one = Object.assign(document.createElement(name), more);
    one.append(...inside);
    return one;
  };
  function photograph(button) {
    const video = make('video', {autoplay: true, muted: true, playsInline: true});
    const told = make('p', {className: 'jp-view-told', textContent: 'Waiting for the camera …'});
    told.setAttribute('role', 'status');
    const take = make('button', {type: 'button', className: 'jp-view-go', textContent: 'Search with this picture', disabled: true});
    const close = make('button', {type: 'button', className: 'jp-view-close', textContent: 'Close'});
    const dialog = make('dialog', {className: 'jp-view jp-camera'}, make('div', {className: 'jp-view-tools'}, take, close), told, video);
    dialog.setAttribute('aria-label', 'Take a picture');
    let stream = null, open = true;
    const stop = () => stream?.getTracks().forEach(track => track.stop());
    cameras.getUserMedia({video: {facingMode: 'environment', width: {ideal: 1920}}}).then(found => {
      stream = found;
      if (!open) return stop();  // closed while it was asked for
      video.srcObject = found;
    }, error => {
      told.textContent = {
        NotAllowedError: 'The browser does not let this page use the camera. Allow it beside the address, then try again.',
        NotFoundError: 'This machine has no camera that the browser knows of.',
      }[error.name] ?? 'The camera does not start: ' + error.message;
    });
    video.addEventListener('loadeddata', () => { told.textContent = ''; take.disabled = false; take.focus(); });
    take.addEventListener('click', () => {
      const canvas = make('canvas', {width: video.videoWidth, height: video.videoHeight});
      canvas.getContext('2d').drawImage(video, 0, 0);
      canvas.toBlob(blob => {
        const time = new Date().toTimeString().slice(0, 8).replaceAll(':', '.'), held = new DataTransfer();
        held.items.add(new File([blob], `camera ${time}.png`, {type: 'image/png'}));
        dialog.close();
        bring(held.files);
      }, 'image/png');
    });
    close.addEventListener('click', () => dialog.close());
    dialog.addEventListener('close', () => { open = false; stop(); dialog.remove(); button.focus(); });
    (document.querySelector('.gradio-container') ?? document.body).append(dialog);
    dialog.showModal();
  }
  document.addEventListener('click', event => {
    const button = event.target.closest('#jp-desk [data-camera]');
    if (button) photograph(button);
  });
})();

// An image in full, beside the query: zoom and pan in step, brightness and contrast, and a part to search with.
(() => {
  const MOST = 16, ROUTE = new URL('jepack/search/full', document.baseURI);
  let dialog, state;
  const make = (name, more = {}, ...inside) => {
    const one = Object.assign(document.createElement(name), more);
    one.append(...inside);
    return one;
  };
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  function pane(title, source, thumbnail) {
    const image = make('img', {alt: title, draggable: false, src: source});
    const box = make('i', {className: 'jp-view-box', hidden: true});
    const sheet = make('div', {className: 'jp-view-sheet'}, image, box);
    const stage = make('div', {className: 'jp-view-stage'}, sheet);
    const told = make('p', {className: 'jp-view-told'});
    image.onerror = async () => {
      if (image.src === thumbnail || !thumbnail) return;
      const answer = await fetch(source).catch(() => null);
      told.textContent = 'Only the thumbnail is here. ' + (answer ? await answer.text() : '');
      image.src = thumbnail;
    };
    return {stage, sheet, image, box, figure: make('figure', {}, make('figcaption', {textContent: title}), stage, told)};
  }

  // As large as fits, in its own shape: a place on the element is then a place on the picture.
  function fit(one) {
    const {naturalWidth: wide, naturalHeight: tall} = one.image;
    if (!wide) return;
    const scale = Math.min(one.sheet.clientWidth / wide, one.sheet.clientHeight / tall);
    Object.assign(one.image.style, {width: wide * scale + 'px', height: tall * scale + 'px'});
    if (state.part && one === state.panes.at(-1)) setPart(one, state.part);
  }

  function draw() {
    const {zoom, x, y, bright, contrast} = state;
    for (const one of state.panes) {
      one.sheet.style.transform = `translate(${x}%, ${y}%) scale(${zoom})`;
      one.image.style.filter = `brightness(${bright}) contrast(${contrast})`;
      one.image.style.imageRendering = zoom > 3 ? 'pixelated' : 'auto';
    }
  }

  function zoomTo(zoom) {
    state.zoom = clamp(zoom, 1, MOST);
    const room = 50 * (state.zoom - 1);
    state.x = clamp(state.x, -room, room);
    state.y = clamp(state.y, -room, room);
    dialog.querySelector('[data-set=zoom]').value = Math.log2(state.zoom);
    draw();
  }

  // Where the pointer is on the picture, as shares of it.
  function place(image, event) {
    const at = image.getBoundingClientRect();
    return [clamp((event.clientX - at.left) / at.width, 0, 1), clamp((event.clientY - at.top) / at.height, 0, 1)];
  }

  function drag(one, chosen) {
    one.stage.addEventListener('wheel', event => {
      event.preventDefault();
      zoomTo(state.zoom * (event.deltaY < 0 ? 1.25 : 0.8));
    }, {passive: false});
    one.stage.addEventListener('pointerdown', event => {
      if (event.button) return;
      event.preventDefault();
      one.stage.setPointerCapture(event.pointerId);
      const from = [event.clientX, event.clientY], was = [state.x, state.y], start = place(one.image, event);
      const move = event => {
        if (state.choosing && chosen) return show(start, place(one.image, event));
        const size = one.stage.getBoundingClientRect();
        state.x = was[0] + 100 * (event.clientX - from[0]) / size.width;
        state.y = was[1] + 100 * (event.clientY - from[1]) / size.height;
        zoomTo(state.zoom);
      };
      const end = () => {
        one.stage.removeEventListener('pointermove', move);
        one.stage.removeEventListener('pointerup', end);
      };
      one.stage.addEventListener('pointermove', move);
      one.stage.addEventListener('pointerup', end);
    });
    function show(a, b) {
      const part = [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];
      setPart(one, part);
    }
  }

  function setPart(one, part) {
    state.part = part[2] - part[0] > .005 && part[3] - part[1] > .005 ? part : null;
    one.box.hidden = !state.part;
    const picture = one.image, sheet = one.sheet;
    const left = (sheet.clientWidth - picture.clientWidth) / 2, top = (sheet.clientHeight - picture.clientHeight) / 2;
    Object.assign(one.box.style, {
      left: left + part[0] * picture.clientWidth + 'px', top: top + part[1] * picture.clientHeight + 'px',
      width: (part[2] - part[0]) * picture.clientWidth + 'px', height: (part[3] - part[1]) * picture.clientHeight + 'px'});
    dialog.querySelector('.jp-view-go').disabled = !state.part;
  }

  function slider(name, title, min, max, step, value, set) {
    const input = make('input', {type: 'range', min, max, step, value});
    input.dataset.set = name;
    input.addEventListener('input', () => set(Number(input.value)));
    return make('label', {}, make('span', {textContent: title}), input);
  }

  const sourceOf = button => button.dataset.full || `${ROUTE}?id=${encodeURIComponent(button.dataset.view)}`;
  const pictureBy = button =>
    button.closest('.jp-cell, .jp-query')?.querySelector('.jp-frame img')?.src;

  function open(button) {
    dialog?.remove();
    const asks = document.querySelector('#jp-strip [data-view]');
    const chosen = pane(button.dataset.title, sourceOf(button), pictureBy(button));
    const beside = asks && asks !== button
      ? [pane('Query: ' + asks.dataset.title, sourceOf(asks), pictureBy(asks))] : [];
    state = {zoom: 1, x: 0, y: 0, bright: 1, contrast: 1, part: null, choosing: false, panes: [...beside, chosen], button};
    const choose = make('button', {type: 'button', className: 'jp-view-choose', textContent: 'Choose a part'});
    choose.setAttribute('aria-pressed', 'false');
    choose.addEventListener('click', () => {
      state.choosing = !state.choosing;
      choose.setAttribute('aria-pressed', String(state.choosing));
      dialog.classList.toggle('jp-choosing', state.choosing);
    });
    const go = make('button', {type: 'button', className: 'jp-view-go', textContent: 'Search with this part', disabled: true});
    go.addEventListener('click', () => {
      const name = button.dataset.view.split('/').map(encodeURIComponent).join('/');
      const where = state.part.map(share => Number(share.toFixed(4))).join(',');
      dialog.close();
      location.hash = `${button.dataset.own ? 'own' : 'like'}=${name};${where}`;
    });
    const reset = make('button', {type: 'button', textContent: 'Reset'});
    const close = make('button', {type: 'button', className: 'jp-view-close', textContent: 'Close'});
    close.addEventListener('click', () => dialog.close());
    const tools = make('div', {className: 'jp-view-tools'},
      slider('zoom', 'Zoom', 0, Math.log2(MOST), .1, 0, value => zoomTo(2 ** value)),
      slider('bright', 'Brightness', .2, 3, .05, 1, value => { state.bright = value; draw(); }),
      slider('contrast', 'Contrast', .2, 4, .05, 1, value => { state.contrast = value; draw(); }),
      reset, choose, go, close);
    dialog = make('dialog', {className: 'jp-view'}, tools,
      make('div', {className: 'jp-view-panes'}, ...state.panes.map(one => one.figure)));
    dialog.setAttribute('aria-label', 'An image in full');
    reset.addEventListener('click', () => {
      Object.assign(state, {x: 0, y: 0, bright: 1, contrast: 1});
      for (const name of ['bright', 'contrast']) dialog.querySelector(`[data-set=${name}]`).value = 1;
      zoomTo(1);
    });
    dialog.addEventListener('close', () => { dialog.remove(); state.button.focus(); });
    (document.querySelector('.gradio-container') ?? document.body).append(dialog);  // where its styles reach
    state.panes.forEach(one => drag(one, one === chosen));
    dialog.showModal();
    draw();
    if (button.dataset.box) state.part = button.dataset.box.split(',').map(Number);
    for (const one of state.panes) {
      one.image.addEventListener('load', () => fit(one));
      if (one.image.complete) fit(one);
    }
  }

  addEventListener('resize', () => dialog?.open && state.panes.forEach(fit));

  document.addEventListener('click', event => {
    const button = event.target.closest('#jp-desk [data-view]');
    if (button) open(button);
  });

  // Arrow keys: from picture to picture of a row or grid; in full, to the neighbour before or after.
  document.addEventListener('keydown', event => {
    const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (event.target.closest('input, textarea, select, [role=tab], [contenteditable]')) return;
    if (dialog?.open) {
      const all = [...document.querySelectorAll('#jp-results [data-view]')];
      const next = all[all.indexOf(state.button) + step[0] + step[1]];
      if (next) { event.preventDefault(); open(next); }
      return;
    }
    const on = document.activeElement?.closest?.('#jp-desk .jp-thumb, #jp-desk .jp-card');
    if (!on) return;
    const all = [...on.closest('.jp-browse, .jp-cards').querySelectorAll('.jp-thumb, .jp-card')];
    const middle = one => { const at = one.getBoundingClientRect(); return [at.left + at.width / 2, at.top + at.height / 2]; };
    const [x, y] = middle(on);
    const ahead = all.map(one => {
      const [u, v] = middle(one), along = (u - x) * step[0] + (v - y) * step[1];
      const aside = Math.abs((u - x) * step[1]) + Math.abs((v - y) * step[0]);
      return {one, along, aside};
    }).filter(found => found.along > 4).sort((a, b) => a.along + 4 * a.aside - b.along - 4 * b.aside);
    event.preventDefault();
    ahead[0]?.one.focus();
  });
})();
