// Builds vendor.js and VENDOR-LICENSES.txt. In a copy of this folder: npm install && node vendor.mjs
// vega-lite is the version that vl-convert draws the picture files with; 6.4.2 divides their legends.
import { build } from 'esbuild';
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const entry = `
import DataTable from 'datatables.net';
import { extend } from 'vega-util';
import { transforms } from 'vega-dataflow';
import * as general from 'vega-transforms';
import * as view from 'vega-view-transforms';
import * as encode from 'vega-encode';
import { parse } from 'vega-parser';
import { View } from 'vega-view';
import { compile } from 'vega-lite';
import { expressionInterpreter } from 'vega-interpreter';
extend(transforms, general, view, encode);
export { DataTable, expressionInterpreter };
export const vega = { parse, View }, vegaLite = { compile };
`;

const result = await build({
  stdin: { contents: entry, resolveDir: import.meta.dirname },
  bundle: true,
  minify: true,
  format: 'iife',
  globalName: 'vendor',
  target: 'es2022',
  legalComments: 'none',
  // All that vega-lite takes from vega is in vega-util; maps, trees, forces and the like stay out.
  alias: { vega: 'vega-util' },
  metafile: true,
  write: false,
});

const folders = new Set(Object.keys(result.metafile.inputs).map((p) => p.match(/^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//)?.[1]));
const groups = new Map();
for (const folder of [...folders].filter(Boolean).sort()) {
  const { name, version, license } = JSON.parse(readFileSync(join(folder, 'package.json')));
  const file = readdirSync(folder).find((f) => /^licen[sc]e/i.test(f));
  if (!file) throw new Error(`${name} has no licence file`);
  const text = readFileSync(join(folder, file), 'utf8').replaceAll('\r\n', '\n').replace(/[ \t]+$/gm, '').trim();
  groups.set(text, [...(groups.get(text) ?? []), `${name} ${version} (${license})`]);
}
const licences = [...groups].map(([text, names]) => `${names.join('\n')}\n\n${text}\n`).join('\n----\n\n');
writeFileSync('VENDOR-LICENSES.txt', licences);
// The notices travel with every page, because a page travels alone.
writeFileSync('vendor.js', `/*!\n${licences}*/\n${result.outputFiles[0].text}`);
