// The map: points drawn by regl-scatterplot, which is fetched from this page's own server when it is first shown.
(() => {
  const BASE = new URL('jepack/map/', document.baseURI);
  const address = (name, query) => {
    const url = new URL(name, BASE);
    for (const [key, value] of Object.entries(query)) url.searchParams.set(key, value);
    return url;
  };
  const fetched = async (name, query) => {
    const answer = await fetch(address(name, query));
    if (!answer.ok) throw new Error(await answer.text());
    return answer;
  };
  const style = (element, name) => getComputedStyle(element).getPropertyValue(name).trim();

  // A bit for each image, least significant first, as base64; the same on the way back.
  const toMask = (rows, count) => {
    const bytes = new Uint8Array(Math.ceil(count / 8));
    for (const row of rows) bytes[row >> 3] |= 1 << (row & 7);
    let text = '';
    for (let at = 0; at < bytes.length; at += 32768) text += String.fromCharCode(...bytes.subarray(at, at + 32768));
    return btoa(text);
  };
  const fromMask = mask => {
    const text = atob(mask), rows = [];
    for (let at = 0; at < text.length; at++)
      for (let bits = text.charCodeAt(at), bit = 0; bits; bits >>= 1, bit++) if (bits & 1) rows.push(8 * at + bit);
    return rows;
  };
  const pointSize = count => count <= 2000 ? 7 : count <= 20000 ? 5 : count <= 200000 ? 3 : 1.5;

  async function mount(element, props, watch, tell) {
    const one = name => element.querySelector(`.jp-map-${name}`);
    const frame = one('frame'), canvas = one('canvas'), card = one('card'), said = one('said');
    const state = {plot: null, points: null, key: '', view: null, hovered: -1, chosen: [], query: 0};
    frame.jpMap = state;  // for whoever measures
    const say = text => { said.textContent = text; };

    const begin = async () => {
      const {default: createScatterplot, checkSupport} = await import(address('regl-scatterplot.js', {}));
      try {
        if (!document.createElement('canvas').getContext('webgl')) throw new Error('no WebGL');
        state.plot = createScatterplot({canvas, ...size(), cameraDistance: whole(), backgroundColor: style(frame, '--jp-card'),
          pointSizeSelected: 1, opacityInactiveMax: 0.12, pointOutlineWidth: 0, lassoColor: style(frame, '--jp-accent'),
          deselectOnDblClick: false, deselectOnEscape: false, pointColorHover: style(frame, '--jp-ink'),
          actionKeyMap: {lasso: 'shift', merge: 'ctrl', remove: 'alt'}});
        listen();
      } catch (error) {
        state.still = true;
        canvas.hidden = true;
        one('tools').hidden = true;
      }
    };
    // The camera sees a square as high as the frame: from farther away where the frame is narrow.
    const whole = () => Math.max(1, frame.clientHeight / frame.clientWidth);
    const size = () => ({width: frame.clientWidth, height: frame.clientHeight});

    const draw = async view => {
      if (!view || (!view.order && !view.problem)) return;
      const number = ++state.query;
      if (view.problem) return say(view.problem);
      try {
        if (state.still) return drawStill(view);
        const key = `${view.order} ${view.layout}`;
        const [places, colours] = await Promise.all([
          key === state.key ? null : fetched('points', {layout: view.layout, order: view.order}).then(a => a.arrayBuffer()),
          view.by ? fetched('colours', {by: view.by, order: view.order, made: view.made}).then(a => a.arrayBuffer()) : null,
        ]);
        if (number !== state.query) return;  // a newer question came meanwhile
        const moved = places !== null, before = state.points;
        if (moved) {
          const xy = new Float32Array(places), count = xy.length / 2;
          state.points = {x: xy.subarray(0, count), y: xy.subarray(count)};
        }
        const count = state.points.x.length;
        const codes = colours && colours.byteLength === 2 * count ? new Uint16Array(colours) : null;
        const palette = codes && view.colours.length ? view.colours : [style(frame, '--jp-accent')];
        const still = matchMedia('(prefers-reduced-motion: reduce)').matches || count > 200000;
        state.plot.set({pointColor: palette.length > 1 ? palette : palette[0], pointColorActive: palette.length > 1 ? palette : palette[0],
          colorBy: palette.length > 1 ? 'z' : null, pointSize: pointSize(count), opacity: count > 20000 ? 0.7 : 0.9});
        const z = codes || new Uint16Array(count);
        await state.plot.draw({x: state.points.x, y: state.points.y, z}, {zDataType: 'categorical',
          ...(moved ? {transition: Boolean(before) && before.x.length === count && !still} : {spatialIndex: state.plot.get('spatialIndex')})});
        state.key = key;
        state.view = view;
        highlight();
        place();
        say('');
        if (moved) tell.drawn(view.layout);
        frame.dataset.drawn = `${view.layout} ${view.by} ${count}`;
      } catch (error) { if (number === state.query) say(`The map cannot be drawn: ${error.message}`); }
    };
    const drawStill = async view => {
      const side = Math.round(Math.min(2000, Math.max(300, Math.min(frame.clientWidth, frame.clientHeight) * devicePixelRatio)));
      if (!one('still')) {
        const picture = document.createElement('img');
        picture.className = 'jp-map-still';
        picture.alt = 'Map of all images, a still picture';
        canvas.after(picture);
      }
      one('still').src = address('still.png', {layout: view.layout, by: view.by, side, made: view.made});
      say('This browser draws no WebGL: a still picture of the map. Choose images by a name or a group beside it.');
      state.view = view;
      frame.dataset.drawn = `still ${view.by} ${view.count}`;
    };

    // Which images are chosen, in any tab.
    const highlight = () => {
      if (!state.plot || !state.points) return;
      if (state.chosen.length) state.plot.select(state.chosen, {preventEvent: true});
      else state.plot.deselect({preventEvent: true});
      frame.dataset.chosen = state.chosen.length;
    };
    const choose = rows => tell.choose(toMask(rows, state.points.x.length));

    // Where a point of the map is on the screen, in pixels of the frame.
    const onScreen = (x, y) => {
      const {width, height} = size(), view = state.plot.get('cameraView'), shrink = height / width;
      return [(view[0] * x * shrink + view[4] * y * shrink + view[12] * shrink + 1) / 2 * width,
        (1 - (view[1] * x + view[5] * y + view[13])) / 2 * height];
    };
    const place = () => {
      const mark = one('mark'), at = props.mark || [];
      mark.hidden = at.length < 2 || !state.plot || !state.points;
      if (mark.hidden) return;
      const [left, top] = onScreen(at[0], at[1]);
      mark.style.left = `${left}px`;
      mark.style.top = `${top}px`;
    };

    // The card of the image under the pointer, or in the middle while the keyboard moves.
    let waiting = 0;
    const hover = row => {
      state.hovered = row;
      frame.classList.toggle('jp-over', row >= 0);
      clearTimeout(waiting);
      card.hidden = true;
      if (row < 0) return;
      waiting = setTimeout(async () => {
        try {
          const html = await (await fetched('about', {row, order: state.view.order})).text();
          if (state.hovered !== row) return;
          card.innerHTML = html;
          card.hidden = false;
          const [left, top] = onScreen(state.points.x[row], state.points.y[row]), {width, height} = size();
          card.style.left = `${Math.max(4, left + 16 + card.offsetWidth > width ? left - 16 - card.offsetWidth : left + 16)}px`;
          card.style.top = `${Math.max(4, Math.min(top - 20, height - card.offsetHeight - 4))}px`;
          card.dataset.row = row;
        } catch (error) { say(error.message); }
      }, 60);
    };
    const nearestToMiddle = () => {
      const {width, height} = size();
      let best = -1, least = Infinity;
      for (const row of state.plot.get('pointsInView')) {
        const [left, top] = onScreen(state.points.x[row], state.points.y[row]);
        const far = (left - width / 2) ** 2 + (top - height / 2) ** 2;
        if (far < least) { least = far; best = row; }
      }
      return best;
    };

    const lasso = on => {
      state.plot.set({mouseMode: on ? 'lasso' : 'panZoom'});
      frame.classList.toggle('jp-lassoing', on);
      one('tools').querySelector('[data-do=lasso]').setAttribute('aria-pressed', on);
    };
    const look = (target, distance) => state.plot.set({cameraTarget: target, cameraDistance: distance});
    const move = (right, up) => {
      const [x, y] = state.plot.get('cameraTarget'), distance = state.plot.get('cameraDistance');
      look([x + right * distance, y + up * distance], distance);
    };
    const zoom = factor => look(state.plot.get('cameraTarget'), Math.min(4, Math.max(0.002, state.plot.get('cameraDistance') * factor)));
    const actions = {
      lasso: () => lasso(!frame.classList.contains('jp-lassoing')),
      in: () => zoom(0.7), out: () => zoom(1 / 0.7),
      all: () => look([0, 0], whole()),
    };
    const keys = {
      ArrowLeft: () => move(-0.15, 0), ArrowRight: () => move(0.15, 0), ArrowUp: () => move(0, 0.15), ArrowDown: () => move(0, -0.15),
      '+': actions.in, '=': actions.in, '-': actions.out, 0: actions.all, l: actions.lasso, L: actions.lasso,
      v: () => choose(state.plot.get('pointsInView')), Escape: () => { lasso(false); choose([]); },
      Enter: () => { if (state.hovered >= 0) tell.pick(state.hovered); },
    };

    const listen = () => {
      const plot = state.plot;
      plot.subscribe('pointOver', row => hover(row));
      plot.subscribe('pointOut', () => hover(-1));
      plot.subscribe('view', () => { card.hidden = true; place(); });
      plot.subscribe('lassoEnd', () => {
        const rows = [...plot.get('selectedPoints')];
        lasso(false);
        state.lassoed = performance.now();
        choose(rows);
      });
      let from = [0, 0];
      canvas.addEventListener('mousedown', event => { from = [event.clientX, event.clientY]; });
      canvas.addEventListener('click', event => {
        const still = Math.hypot(event.clientX - from[0], event.clientY - from[1]) < 5;
        setTimeout(highlight);  // the library would choose the point alone
        if (still && state.hovered >= 0 && !(performance.now() - state.lassoed < 400)) tell.pick(state.hovered);
      });
      canvas.addEventListener('keydown', event => {
        const key = keys[event.key];
        if (!key || !state.points || event.ctrlKey || event.metaKey || event.altKey) return;
        event.preventDefault();
        key();
        if (event.key.startsWith('Arrow') || '+-=0'.includes(event.key)) {
          one('cross').hidden = false;
          requestAnimationFrame(() => requestAnimationFrame(() => hover(nearestToMiddle())));
        }
      });
      canvas.addEventListener('blur', () => { one('cross').hidden = true; });
      canvas.addEventListener('mousemove', () => { one('cross').hidden = true; });
      one('tools').addEventListener('click', event => {
        const button = event.target.closest('[data-do]');
        if (button && state.points) actions[button.dataset.do]();
      });
      touch(canvas);
      new ResizeObserver(() => {
        if (!frame.clientWidth) return;  // another tab is open
        plot.set(size());
        requestAnimationFrame(place);
      }).observe(frame);
      new MutationObserver(() => plot.set({backgroundColor: style(frame, '--jp-card'), pointColorHover: style(frame, '--jp-ink')}))
        .observe(document.body, {attributes: true, attributeFilter: ['class']});
    };

    watch('view', () => draw(props.view));
    watch('chosen', () => { state.chosen = props.chosen ? fromMask(props.chosen) : []; highlight(); });
    watch('mark', place);
    // Not before it is seen: then the places are made, and neighbourhoods begun.
    new IntersectionObserver(async (entries, observer) => {
      if (!entries.some(entry => entry.isIntersecting)) return;
      observer.disconnect();
      await begin();
      jpAsk(frame, tell.open, () => props.view?.order || props.view?.problem);
    }).observe(frame);
  }

  // A finger as the mouse that the library knows; two fingers as its wheel.
  function touch(canvas) {
    const as = (kind, at, buttons) => canvas.dispatchEvent(new MouseEvent(kind, {
      clientX: at.clientX, clientY: at.clientY, buttons, button: 0, bubbles: true, cancelable: true}));
    let apart = 0;
    const gap = ([one, two]) => Math.hypot(one.clientX - two.clientX, one.clientY - two.clientY);
    canvas.addEventListener('touchstart', event => {
      if (event.touches.length === 2) { as('mouseup', event.touches[0], 0); apart = gap(event.touches); return; }
      as('mouseenter', event.touches[0], 0);
      as('mousemove', event.touches[0], 0);
      as('mousedown', event.touches[0], 1);
    }, {passive: true});
    canvas.addEventListener('touchmove', event => {
      event.preventDefault();
      if (event.touches.length === 2) {
        const now = gap(event.touches), [one, two] = event.touches;
        canvas.dispatchEvent(new WheelEvent('wheel', {deltaY: 2 * (apart - now), bubbles: true, cancelable: true,
          clientX: (one.clientX + two.clientX) / 2, clientY: (one.clientY + two.clientY) / 2}));
        apart = now;
      } else as('mousemove', event.touches[0], 1);
    }, {passive: false});
    canvas.addEventListener('touchend', event => {
      if (event.changedTouches.length) as('mouseup', event.changedTouches[0], 0);
    }, {passive: true});
  }

  window.jpMap = {mount};
})();
