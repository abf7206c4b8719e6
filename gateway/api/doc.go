// Package api is the wire contract of the native REST API, version 1: the
// request and response bodies, and the one table that maps sentinel errors
// to codes and HTTP statuses and back. The server, the client and the CLI
// share it; openapi.yaml says the same for everybody else.
//
// Byte fields travel in standard base64 with padding. Times are RFC 3339 in
// UTC. A nil byte field is absent, an empty one is present and empty.
package api
