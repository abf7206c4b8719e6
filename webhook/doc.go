// Package webhook delivers the events of the store to HTTPS endpoints.
//
// Each webhook has a cursor in the store: the last event that was delivered,
// given up or not meant for it. The cursor moves after the endpoint has
// answered 2xx, so every event is sent at least once, and in order; what a
// crash between the two sends again bears the same Keyhole-Delivery. Each
// webhook has a goroutine of its own: one that hangs delays no other.
//
// Of several gateways one delivers to a webhook at one time, under a lease
// that it takes when there is something to send. Should it die, another one
// goes on from the cursor when the lease has lapsed; what was on its way is
// sent again.
//
// An endpoint that fails is tried again with growing pauses. An event that it
// still does not take after GiveUpAfter, or that it answers with 410, is kept
// as dead, and the next one has its turn. Dead events are sent again only
// when somebody orders it.
//
// # What the receiver checks
//
// The body is one api.Event. Keyhole-Signature is a detached JWS (RFC 7515,
// appendix F) over it by a Keyhole key, whose public half is in the JWKS under
// the header's kid. The protected header also holds "typ": "keyhole-event",
// "aud" (the webhook's name), "jti" (as Keyhole-Delivery) and "iat" (when this
// attempt was signed). A receiver verifies the signature, compares typ and
// aud, refuses an iat that is not recent, and drops a jti that it has seen.
// The other Keyhole headers are for routing and are not signed by themselves.
//
// # Trust
//
// The endpoint is trusted with the events of its keys and with nothing else.
// Its answers are bounded in size and time, its redirects are not followed,
// and nothing that it says is shown. A URL may hold a secret: no error, log
// line or answer has more of it than the host.
package webhook
