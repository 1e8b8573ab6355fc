// The page "Try it": loads what `make try` wrote, by script tags so that it works from disk, and asks the networks here, in the browser.
(function () {
  'use strict';
  const root = document.getElementById('try-it');
  if (!root) return;
  const folder = new URL(root.dataset.files, document.baseURI).href;
  const make = 'make try\nmake docs';
  const examples = {
    text: ['A film to remember, warm and funny from the first scene to the last.', 'The plot is thin and the jokes are older than the cast.',
      'Not bad at all.', 'I wanted to love it, but two hours is a long time to wait for a story.', 'The acting is fine; everything else is a mess.',
      'Nobody will ever call this boring.'],
    pair: [['A dog runs along the beach.', 'A dog is running by the sea.'], ['A man plays the guitar.', 'A woman plays the violin.'],
      ['The meeting is on Monday.', 'The meeting is not on Monday.'], ['The bank raised its rates.', 'A cat sleeps in the sun.'],
      ['Two children are on a swing.', 'Some kids play in a park.']],
  };

  const named = { spearman: 'Spearman correlation' };

  // A small tag of HTML with attributes and children
  function el(tag, attrs, ...children) {
    const e = document.createElement(tag);
    for (const [k, v] of Object.entries(attrs || {})) k in e && typeof v !== 'string' ? e[k] = v : e.setAttribute(k, v);
    e.append(...children.filter(c => c !== null && c !== undefined));
    return e;
  }
  const mb = n => `${(n / 1e6).toFixed(n < 1e6 ? 2 : 1)} MB`;
  const median = xs => [...xs].sort((a, b) => a - b)[xs.length >> 1];

  // Files -------------------------------------------------------------------------------------------
  const pieces = {};
  window.adaptpruneTry = (name, i, text) => { (pieces[name] = pieces[name] || [])[i] = text; };

  function script(file) {
    return new Promise((done, fail) => {
      const s = el('script', { src: folder + file });
      s.onload = () => { s.remove(); done(); };
      s.onerror = () => { s.remove(); fail(new Error(`The file try/${file} is missing or cannot be read.`)); };
      document.head.append(s);
    });
  }

  async function unpacked(name, about) {
    const parts = pieces[name].map(t => Uint8Array.from(atob(t), c => c.charCodeAt(0)));
    delete pieces[name];
    const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream('gzip'));     // which checks the sum of what it holds
    const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
    if (bytes.length !== about.bytes) throw new Error(`The file try/${name} has ${bytes.length} bytes and not ${about.bytes}.`);
    return bytes;
  }

  function check() {
    const needs = { DecompressionStream: window.DecompressionStream, WebAssembly: window.WebAssembly, BigInt64Array: window.BigInt64Array };
    const lacks = Object.keys(needs).filter(k => !needs[k]);
    if (lacks.length) throw new Error(`This browser has no ${lacks.join(' and no ')}: take a newer one (Chrome 91, Firefox 113, Safari 16.4).`);
  }

  // Networks ----------------------------------------------------------------------------------------
  const page = { manifest: null, ready: null, sessions: {} };

  // The base with zeros where the mask of a task prunes: a bit for each weight
  function masked(base, bits, ranges) {
    const data = base.slice();
    let k = 0;
    for (const [offset, length] of ranges)
      for (let i = offset; i < offset + length; i++, k++)
        if (!(bits[k >> 3] & (128 >> (k & 7)))) data[i] = 0;
    return data;
  }

  async function load(progress) {
    check();
    const about = page.manifest, all = Object.values(about.parts).reduce((n, p) => n + p.shipped, 0), got = {};
    let done = 0;
    for (const [name, p] of Object.entries(about.parts)) {
      for (let i = 0; i < p.files; i++) {
        await script(`${name}-${i}.js`);
        done += p.shipped / p.files;
        progress(done / all, `${mb(done)} of ${mb(all)}`);
      }
      got[name] = await unpacked(name, p);
    }
    progress(1, 'starting …');
    await script(about.api);
    const wasm = window.ort.env.wasm;
    wasm.numThreads = 1;
    wasm.proxy = false;
    wasm.wasmBinary = got.wasm.buffer;
    wasm.wasmPaths = { mjs: URL.createObjectURL(new Blob([got.glue], { type: 'text/javascript' })) };
    page.tokenizer = new window.adaptpruneWordPiece(new TextDecoder().decode(got.vocab).split('\n'), about.longest);
    page.files = got;
  }

  function session(task) {
    return page.sessions[task.name] = page.sessions[task.name] || (async () => {
      const data = masked(page.files.base, page.files[`${task.name}-mask`], page.manifest.ranges);
      const how = { executionProviders: ['wasm'], externalData: [{ path: 'base.bin', data }] };
      return window.ort.InferenceSession.create(page.files[`${task.name}-graph`], how);
    })();
  }

  function softmax(z) {
    const top = Math.max(...z), e = z.map(x => Math.exp(x - top)), sum = e.reduce((a, b) => a + b);
    return e.map(x => x / sum);
  }

  // What a network answers to a text or a pair: numbers, and the milliseconds of a call
  async function run(task, texts, runs = 1) {
    const s = await session(task), coded = page.tokenizer.encode(...texts), n = coded.ids.length;
    const tensor = xs => new window.ort.Tensor('int64', BigInt64Array.from(xs, BigInt), [1, n]);
    const named = { input_ids: tensor(coded.ids), attention_mask: tensor(coded.ids.map(() => 1)), token_type_ids: tensor(coded.types) };
    const inputs = Object.fromEntries(s.inputNames.map(k => [k, named[k]])), times = [];
    let logits;
    for (let i = 0; i < runs; i++) {
      const began = performance.now();
      logits = Array.from((await s.run(inputs)).logits.data);
      times.push(performance.now() - began);
    }
    return { values: task.labels.length > 1 ? softmax(logits) : logits, tokens: n, cut: coded.cut, ms: median(times) };
  }

  let last = Promise.resolve();      // one call at a time
  function ask(name, texts, runs) {
    const task = page.manifest.tasks.find(t => t.name === name);
    return last = last.catch(() => null).then(() => run(task, texts, runs));
  }

  // What is seen -------------------------------------------------------------------------------------
  const shown = {};
  function say(kind, ...what) {
    shown.said.className = `try-said ${kind}`;
    shown.said.replaceChildren(...what);
  }
  function fail(e, ...more) { say('try-error', el('strong', null, 'It did not work. '), e.message || String(e), ...more); }

  function bars(task, values) {
    const one = task.labels.length === 1;
    return task.labels.map((label, i) => {
      const v = one ? Math.min(1, Math.max(0, values[0] / task.top)) : values[i];
      const words = one ? `${values[0].toFixed(1)} of ${task.top}` : `${(100 * v).toFixed(1)} %`;
      const fill = el('span', { class: 'try-fill', style: `width:${(100 * v).toFixed(2)}%` });
      return el('div', { class: 'try-row' }, el('span', null, label), el('span', { class: 'try-track' }, fill), el('span', { class: 'try-number' }, words));
    });
  }

  function verdict(task, values) {
    if (task.labels.length > 1) return task.labels[values.indexOf(Math.max(...values))];
    return task.scale[Math.min(task.top, Math.max(0, Math.round(values[0])))];
  }

  let asked = 0;
  async function answer() {
    const task = shown.task, texts = shown.boxes.map(b => b.value.trim()), mine = ++asked;
    if (texts.some(t => !t)) { shown.result.replaceChildren(el('p', { class: 'try-quiet' }, texts.length > 1 ? 'Write two sentences.' : 'Write a sentence.')); return; }
    try {
      const got = await ask(task.name, texts, 5);
      if (mine !== asked) return;
      const cut = got.cut ? ` · only the first ${page.manifest.longest} tokens were read` : '';
      shown.result.replaceChildren(el('p', { class: 'try-label' }, verdict(task, got.values)), ...bars(task, got.values),
        el('p', { class: 'try-quiet' }, el('strong', { class: 'try-ms' }, `${got.ms.toFixed(1)} ms`), ` in this browser, median of 5 · ${got.tokens} tokens${cut}`));
      say('');
    } catch (e) { fail(e); }
  }

  let timer;
  function soon() { clearTimeout(timer); timer = setTimeout(answer, 150); }

  function choose(task) {
    shown.task = task;
    for (const b of shown.tabs.children) b.setAttribute('aria-pressed', String(b.dataset.task === task.name));
    const pair = task.texts > 1, labels = pair ? ['First sentence', 'Second sentence'] : ['A sentence'], some = examples[pair ? 'pair' : 'text'];
    shown.boxes = labels.map((_, i) => el('textarea', { rows: '2', id: `try-text-${i}`, spellcheck: 'false', oninput: soon }));
    const fill = ex => { [].concat(ex).forEach((t, i) => { shown.boxes[i].value = t; }); answer(); };
    const chips = some.map(ex => el('button', { type: 'button', class: 'try-chip', onclick: () => fill(ex) }, [].concat(ex).join(' — ')));
    shown.form.replaceChildren(...labels.flatMap((l, i) => [el('label', { for: `try-text-${i}` }, l), shown.boxes[i]]));
    shown.chips.replaceChildren(el('span', { class: 'try-quiet' }, 'Or ask one of these:'), ...chips);
    shown.about.replaceChildren(`${task.about} Its score on ${task.rows.toLocaleString('en')} examples that it has not seen: ${named[task.metric] || task.metric} `, el('strong', null, task.int8.toFixed(3)),
      ` in int8 as here, ${task.float32.toFixed(3)} before int8; the fine-tuned whole network that it learnt from: ${task.teacher.toFixed(3)}.`);
    fill(some[0]);
  }

  function loaded() {
    const p = page.manifest.parts, own = t => p[`${t.name}-graph`].bytes + p[`${t.name}-mask`].bytes;
    return `Loaded: the shared base ${mb(p.base.bytes)}; ` + page.manifest.tasks.map(t => `${t.title} ${mb(own(t))}`).join(', ') +
      `; vocabulary ${mb(p.vocab.bytes)}; ONNX Runtime Web ${mb(p.wasm.bytes)}. Packed: ${mb(Object.values(p).reduce((n, x) => n + x.shipped, 0))}.`;
  }

  async function start() {
    const bar = el('progress', { max: 1, value: 0, 'aria-label': 'Loading' }), words = el('span', { class: 'try-quiet' });
    say('', bar, words);
    try {
      page.ready = page.ready || load((share, text) => { bar.value = share; words.textContent = text; });
      await page.ready;
      await session(page.manifest.tasks[0]);
    } catch (e) {
      page.ready = null;
      fail(e, ' ', el('button', { type: 'button', class: 'try-go', onclick: start }, 'Try again'));
      return;
    }
    shown.tabs.replaceChildren(...page.manifest.tasks.map(t => el('button', { type: 'button', 'data-task': t.name, onclick: () => choose(t) }, t.title)));
    shown.foot.textContent = loaded();
    choose(page.manifest.tasks[0]);
  }

  async function open() {
    for (const k of ['said', 'tabs', 'about', 'form', 'result', 'chips', 'foot']) shown[k] = el('div', { class: `try-${k}` });
    shown.result.setAttribute('aria-live', 'polite');
    root.replaceChildren(shown.tabs, shown.about, shown.form, shown.result, shown.said, shown.chips, shown.foot);
    try { await script('manifest.js'); }
    catch (e) {
      say('try-none', el('p', null, 'The networks are not here: they are made, and not kept in the repository. In a clone, these two commands make them and put them into this site:'), el('pre', null, make));
      return;
    }
    page.manifest = window.adaptpruneManifest;
    const all = Object.values(page.manifest.parts).reduce((n, p) => n + p.shipped, 0);
    say('', el('button', { type: 'button', class: 'try-go', onclick: start }, `Load the networks (${mb(all)})`),
      el('span', { class: 'try-quiet' }, ' They run here: nothing that you type leaves this page.'));
  }

  page.start = start;
  page.ask = ask;
  page.encode = (...texts) => page.tokenizer.encode(...texts);
  window.adaptprunePage = page;
  page.opened = open();
})();
