// The tokens of BERT's uncased vocabulary, as the Rust library of Hugging Face reads them; tests/test_try.py compares the two.
// That library knows the Unicode of 2015: they differ in some 670 later or rare characters, none of which is in the vocabulary.
(function (host) {
  'use strict';
  const special = /\[(?:PAD|UNK|CLS|SEP|MASK)\]/g;
  const space = /\p{White_Space}/u, control = /[^\P{Cc}\t\n\r]|[\p{Cf}\p{Co}\ufffd]/u;
  const mark = /\p{Mn}/gu, punctuation = /[!-\/:-@[-`{-~\p{P}]/u;
  const chinese = /[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\u{2b920}-\u{2ceaf}\u{2f800}-\u{2fa1f}]/u;

  function clean(c) {
    if (control.test(c)) return '';
    if (space.test(c)) return ' ';
    return chinese.test(c) ? ` ${c} ` : c;
  }

  // Clean text in lower case, without accents. A character at a time: a sigma at the end of a word is like any other
  function normal(text) {
    const plain = Array.from(text.toWellFormed ? text.toWellFormed() : text, clean).join('').normalize('NFD').replace(mark, '');
    return Array.from(plain, c => c.toLowerCase()).join('');
  }

  // Words, and each mark of punctuation by itself
  function words(text) {
    const found = [];
    let word = '';
    const end = () => { if (word) found.push(word); word = ''; };
    for (const c of normal(text)) {
      if (space.test(c)) end();
      else if (punctuation.test(c)) { end(); found.push(c); }
      else word += c;
    }
    end();
    return found;
  }

  class WordPiece {
    constructor(tokens, longest = 128) {
      this.ids = new Map(tokens.map((t, i) => [t, i]));
      this.longest = longest;
    }

    id(token) { return this.ids.get(token); }

    // The longest pieces from left to right; a word that has none is unknown
    pieces(word) {
      const letters = Array.from(word), found = [];
      if (letters.length > 100) return [this.id('[UNK]')];
      for (let from = 0, to; from < letters.length; from = to) {
        let id;
        for (to = letters.length; to > from; to--) {
          id = this.id((from ? '##' : '') + letters.slice(from, to).join(''));
          if (id !== undefined) break;
        }
        if (id === undefined) return [this.id('[UNK]')];
        found.push(id);
      }
      return found;
    }

    plain(text) { return words(text).flatMap(w => this.pieces(w)); }

    // Token ids of a text, without those around it. A special token that is spelt out counts as itself
    tokens(text) {
      const found = [];
      let at = 0;
      for (const m of text.matchAll(special)) {
        found.push(...this.plain(text.slice(at, m.index)), this.id(m[0]));
        at = m.index + m[0].length;
      }
      return found.concat(this.plain(text.slice(at)));
    }

    // How many tokens of two texts fit: the longer one loses first
    share(a, b) {
      const room = this.longest - 3, [short, long] = a < b ? [a, b] : [b, a];
      if (a + b <= room) return [a, b];
      const kept = 2 * short <= room ? [short, room - short] : [room >> 1, room - (room >> 1)];
      return a > b ? [kept[1], kept[0]] : kept;
    }

    // What the network reads of a text, or of a pair: ids, and which text each is of
    encode(first, second) {
      let a = this.tokens(first), b = second === undefined ? null : this.tokens(second);
      const whole = a.length + (b ? b.length : 0);
      if (b) { const [n, m] = this.share(a.length, b.length); a = a.slice(0, n); b = b.slice(0, m); }
      else a = a.slice(0, this.longest - 2);
      const ids = [this.id('[CLS]'), ...a, this.id('[SEP]'), ...(b ? [...b, this.id('[SEP]')] : [])];
      const types = ids.map((_, i) => b && i > a.length + 1 ? 1 : 0);
      return { ids, types, cut: whole > a.length + (b ? b.length : 0) };
    }
  }

  const made = { WordPiece, words, normal };
  if (typeof module === 'object') module.exports = made;
  else Object.assign(host, { adaptpruneWordPiece: WordPiece });
})(globalThis);
