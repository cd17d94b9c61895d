// The no-op function in Node.js. PORT: where it serves HTTP [80]; READY_URL: where it POSTs once that it serves.
"use strict";
const http = require("http");

const server = http.createServer((request, response) => {
  request.resume();
  response.end("\n");
});

server.listen(Number(process.env.PORT || 80), () => {
  if (!process.env.READY_URL) return;
  const announcement = http.request(process.env.READY_URL, { method: "POST" }, (answer) => answer.resume());
  announcement.on("error", (error) => {
    console.error(`cannot announce: ${error.message}`);
    process.exit(1);
  });
  announcement.end();
});
