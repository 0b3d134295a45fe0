"use strict";
// Shows the molecules of the page in space: one at a time, one conformer or all of them laid over.
(function () {
  const molecules = JSON.parse(document.getElementById("molecules").textContent);
  const list = document.getElementById("list"), place = document.getElementById("conformers");
  const box = document.getElementById("viewer");
  let viewer;
  try {
    viewer = $3Dmol.createViewer(box, { backgroundColor: "white" });
  } catch (error) { viewer = undefined; }
  if (!viewer) {
    box.textContent = "This browser shows nothing in three dimensions (WebGL is off).";
    return;
  }
  function pressed(parent, button) {
    for (const other of parent.querySelectorAll("button")) other.setAttribute("aria-pressed", other === button);
  }
  function button(parent, text, action) {
    const one = document.createElement("button");
    one.textContent = text;
    one.addEventListener("click", function () { pressed(parent, one); action(); });
    parent.append(one);
    return one;
  }
  function show(conformers) {
    viewer.removeAllModels();
    for (const conformer of conformers) viewer.addModel(conformer.block, "sdf");
    viewer.setStyle({}, conformers.length > 1 ? { stick: { radius: 0.06 } } : { stick: { radius: 0.12 }, sphere: { scale: 0.22 } });
    viewer.zoomTo();
    viewer.render();
  }
  function choose(molecule) {
    place.replaceChildren();
    if (molecule.conformers.length === 1) return show(molecule.conformers);  // nothing to choose
    const first = molecule.conformers.map(function (conformer) {
      return button(place, "+" + conformer.energy.toFixed(2) + " kcal/mol", function () { show([conformer]); });
    })[0];
    if (molecule.conformers.length > 1) button(place, "all", function () { show(molecule.conformers); });
    first.click();
  }
  const buttons = molecules.map(function (molecule) {
    const item = document.createElement("li");
    list.append(item);
    const one = button(item, molecule.name, function () { pressed(list, one); choose(molecule); });
    return one;
  });
  buttons[0].click();
})();
