// The search page: from disk it cannot fetch pages for their excerpts, and an excerpt begins with what a page says
addEventListener('DOMContentLoaded', () => {
  if (typeof Search == 'undefined') return
  if (location.protocol == 'file:') DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false
  const plain = Search.htmlToText
  Search.htmlToText = (html, anchor) => plain(html.replace(/<p class="nblinks">.*?<\/p>/s, ''), anchor)
})
