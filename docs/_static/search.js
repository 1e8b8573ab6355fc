// The search page: from disk it cannot fetch pages for their excerpts; online, an excerpt begins with what a page says
if (location.protocol == 'file:') DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false
addEventListener('DOMContentLoaded', () => {
  if (typeof Search == 'undefined') return
  const plain = Search.htmlToText
  Search.htmlToText = (html, anchor) => plain(html.replace(/<p class="nblinks">.*?<\/p>/s, ''), anchor)
})
