#!/bin/sh
# Makes regl-scatterplot.js and LICENSES.txt of the pinned npm packages. Needs Node; using jepack does not.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$here/package.json" "$here/package-lock.json" "$work"
cd "$work"
npm ci --no-audit --no-fund --ignore-scripts
echo "export { default, checkSupport } from 'regl-scatterplot';" > entry.js
node_modules/.bin/esbuild entry.js --bundle --minify --format=esm --legal-comments=none --metafile=made.json \
  --outfile="$here/regl-scatterplot.js"
# The licence of every package that esbuild put in.
for package in $(grep -o 'node_modules/\(@[^/"]*/\)\{0,1\}[^/"]*' made.json | sort -u); do
  echo "== $(node -p "const p = require('./$package/package.json'); \`\${p.name} \${p.version} (\${p.license})\`")"
  cat "$package"/LICENSE*
  echo
done > "$here/LICENSES.txt"
