import { run } from "/test/harness.js";

await import(`/test/${new URLSearchParams(location.search).get("file")}`);
await run();
