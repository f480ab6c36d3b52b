// Reads clusters, creates a tenant and an application, and reads a refusal, with types made from the OpenAPI document:
// that it compiles is half of the test.

import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

type Problem = components["schemas"]["Problem"];

const TENANT = "from-typescript";

function required(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set`);
  return value;
}

function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Error(message);
}

const cluster = required("KUBENOVA_CLUSTER");
const api = createClient<paths>({
  baseUrl: required("KUBENOVA_URL"),
  headers: { Authorization: `Bearer ${required("KUBENOVA_TOKEN")}` },
});

const clusters = await api.GET("/api/v1/clusters");
assert(clusters.data !== undefined, `clusters were refused: ${clusters.error?.detail}`);
const found = clusters.data.items.find((one) => one.name === cluster);
assert(found?.state === "enrolled", `cluster ${cluster} is not enrolled`);

const body = { name: TENANT, clusters: [cluster], quota: { pods: 5 } };
const dryRun = await api.POST("/api/v1/tenants", { params: { query: { dryRun: true } }, body });
assert(dryRun.response.status === 200 && dryRun.data?.commands.length === 0, "the dry run is not 200 without commands");

const created = await api.POST("/api/v1/tenants", { body });
assert(created.response.status === 202 && created.data !== undefined, `not accepted: ${created.error?.detail}`);
assert(created.data.quota.pods === 5 && created.data.commands[0]?.clusterId === found.id, "another tenant was created");

const again = await api.POST("/api/v1/tenants", { body });
const problem: Problem | undefined = again.error;
assert(again.response.status === 409 && problem?.reason === "NAME_TAKEN", "the name is not refused as taken");
assert(problem.fields?.[0]?.pointer === "/name", "the problem does not name the field");

// The spec has fields that the document does not list; KubeVela's definitions decide what they mean.
const application = await api.POST("/api/v1/tenants/{tenant}/apps", {
  params: { path: { tenant: TENANT } },
  body: {
    application: {
      apiVersion: "core.oam.dev/v1beta1",
      kind: "Application",
      metadata: { name: "shop", labels: { team: "web" } },
      spec: {
        components: [{ name: "web", type: "webservice", properties: { image: "nginx:1.29" } }],
        policies: [{ name: "once", type: "apply-once", properties: { enable: true } }],
      },
    },
  },
});
assert(application.response.status === 202, `the application was refused: ${application.error?.detail}`);
assert(application.data?.spec.components[0]?.type === "webservice", "another application was created");

console.log(`${clusters.data.items.length} clusters; ${created.data.name}: ${created.data.commands.length} command`);
