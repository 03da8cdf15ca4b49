// The app of the example: answers on port 3000 and says so on its standard output.
const http = require("node:http");

http
  .createServer((request, response) => {
    console.log(`${request.method} ${request.url}`);
    response.end("hello from the sandbox\n");
  })
  .listen(3000, () => console.log("listening on 3000"));
