// check.mjs DASHBOARD   whether a dashboard is one by Grafana's own schema, which it publishes as TypeScript
import { readFileSync } from 'node:fs';
import { Ajv } from 'ajv';
import { createGenerator } from 'ts-json-schema-generator';

const types = new URL('node_modules/@grafana/schema/dist/types/raw/dashboard/x/types.gen.d.ts', import.meta.url).pathname;
const schema = createGenerator({ path: types, type: 'Dashboard', skipTypeCheck: true }).createSchema('Dashboard');
const required = Object.keys(schema.definitions.Dashboard.properties).length;
if (required < 20) throw new Error(`only ${required} fields are known: ${types} is not what it was`);
const dashboard = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const validate = new Ajv({ allErrors: true, strict: false }).compile(schema);
const fits = (candidate) => validate(candidate);
// The check itself is tried: none of these may pass.
for (const wrong of [{ ...dashboard, title: 7 }, { ...dashboard, panel: [] }, { ...dashboard, panels: [{ title: 'without a type' }] }]) {
  if (fits(wrong)) throw new Error('a wrong dashboard passes');
}
if (!fits(dashboard)) {
  for (const { instancePath, message, params } of validate.errors) {
    console.error(`${instancePath || '/'} ${message} ${JSON.stringify(params)}`);
  }
  process.exit(1);
}
console.log(`${dashboard.panels.length} panels fit Grafana's schema ${JSON.parse(readFileSync(new URL('node_modules/@grafana/schema/package.json', import.meta.url))).version}`);
