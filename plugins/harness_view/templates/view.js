const live = document.getElementById("live");
if (live?.dataset.source) {
  const source = new EventSource(live.dataset.source);
  source.onmessage = (event) => { live.innerHTML = event.data; };
  source.addEventListener("end", () => { source.close(); location.reload(); });
}
document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || event.target.matches("input, select")) return;
  document.querySelector(`button[value="${CSS.escape(event.key)}"]`)?.click();
});
