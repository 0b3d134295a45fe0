#!/bin/sh
# A first screen: twenty molecules to relaxed conformers, a page to look at, and an SD file with bonds.
#
#     sh examples/first_screen.sh            # in any folder, wherever mlff-screen is installed
set -eu
mlff-screen run quick --out first --conformers 3 --model small ${MLFF_SCREEN_ARGS:-}
mlff-screen export first --sdf first/best.sdf                               # the best of each molecule
mlff-screen export first --sdf first/low.sdf.gz --all --where "relative_energy_kcal_mol < 3"
echo "look at first/report.html; first/best.sdf opens in any viewer"
