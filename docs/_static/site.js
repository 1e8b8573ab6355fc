// What is wider than its place is named: a shadow alone is not seen on a figure
function wide() {
  for (const box of document.querySelectorAll('.cell_output, article .table-wrapper'))
    box.classList.toggle('wide', box.scrollWidth > box.clientWidth+8 && !box.querySelector('.wide'))
}
addEventListener('load', wide)
addEventListener('resize', wide)
addEventListener('toggle', wide, true)
