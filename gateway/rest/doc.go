// Package rest is the native REST API over HTTP: routes, credentials, limits,
// strict decoding, problem documents. It holds a *gateway.Service and nothing
// else of the inside.
//
// gorilla/mux answers one question only: which endpoint is this? Everything
// else happens around it, because a router's middleware does not run for what
// the router does not know. The order is the same for each request:
//
//  1. request id, security headers, a place among the requests in flight
//  2. authentication, also for paths and methods that do not exist
//  3. path, query, media type, body: what is wrong here is recorded
//     (Service.Refuse) before it is answered
//  4. the Service method, which authorises, acts and records
//  5. the answer, written whole or not at all
//
// The event stream is the one answer that does not end by itself. From its
// first byte on it has limits of its own: see Config.
//
// A panic anywhere is logged, recorded and answered as an internal error.
package rest
