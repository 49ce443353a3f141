#!/bin/sh
# Make static/vendor.js, uplot.css and vendor-licences.txt from the packages that package-lock.json names. The same bytes
# each time: "make vendor-check" compares. Needs npm, and nothing of it is run at installation or by the node.
#   build.sh OUTPUT-FOLDER WORK-FOLDER
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1" "$2"
out=$(cd "$1" && pwd) work=$(cd "$2" && pwd)
cp "$here/package.json" "$here/package-lock.json" "$here/entry.js" "$work/"
cd "$work"
npm ci --ignore-scripts --no-audit --no-fund --silent
node_modules/.bin/esbuild entry.js --bundle --minify --format=esm --target=es2022 --legal-comments=none \
    --log-level=error --define:process.env.NODE_ENV='"production"' \
    --banner:js="// preact, htm, @preact/signals and uPlot in one file, made by 'make vendor'; licences: vendor-licences.txt" \
    --outfile="$out/vendor.js"
cp node_modules/uplot/dist/uPlot.min.css "$out/uplot.css"
{
    echo "Licences of the libraries in vendor.js and uplot.css, which 'make vendor' makes."
    for name in preact @preact/signals @preact/signals-core htm uplot; do
        folder=node_modules/$name
        version=$(sed -n 's/^ *"version": "\(.*\)",*$/\1/p' "$folder/package.json" | head -1)
        printf '\n== %s %s ==\n\n' "$name" "$version"
        cat "$folder"/LICENSE*
    done
} > "$out/vendor-licences.txt"
