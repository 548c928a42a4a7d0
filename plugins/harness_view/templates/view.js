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
const find = document.getElementById("filter");
if (find) {
  const rows = [...document.querySelectorAll("tbody tr")], shown = document.getElementById("shown");
  find.hidden = false;
  find.addEventListener("input", () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const tr of rows) tr.hidden = !words.every((word) => tr.textContent.toLowerCase().includes(word));
    shown.textContent = `${rows.filter((tr) => !tr.hidden).length} of ${rows.length} runs`;
  });
  find.addEventListener("keydown", (event) => { if (event.key === "Enter") event.preventDefault(); });
}
