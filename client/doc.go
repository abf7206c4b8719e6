// Package client is the Go client of the Keyhole gateway.
//
//	c, err := client.New(client.Config{
//		Address:    "https://keyhole.example:8443",
//		CACertFile: "/etc/keyhole/ca.crt",
//		Token:      client.TokenFile("/run/keyhole/token"),
//	})
//	sig, err := c.Sign(ctx, "payments", api.SignRequest{Payload: msg})
//
// There is one method per API call. A Client is safe for concurrent use,
// keeps its connections, and starts no goroutine of its own.
//
// # Rotations
//
// Whoever signs, encrypts and decrypts by calls notices nothing of rotations:
// it names the key, answers and ciphertexts name the version. Whoever keeps
// public keys, to verify by itself, follows the key with a Watch, which has
// each version before it is used, acknowledges it to the gateway, and hears of
// revocations. Events is the stream below it.
//
// # Errors
//
// A refusal by the gateway is an *Error around the sentinel of package keys
// that the gateway itself had: errors.Is(err, keys.ErrKeyNotFound) works
// across the network. A gateway that cannot be reached is a *ConnError. When
// the caller's ctx ends, the error is ctx's.
//
// # Retries
//
// A call is tried again, with growing and jittered pauses, when the
// connection failed before the whole answer was there and when the gateway or
// a proxy before it answered 429, 502, 503 or 504; Retry-After is honoured as
// long as ctx and Config.Timeout leave room for it. That is safe for every
// call: reading and the data plane keep no state, and calls that change keys
// carry one random Idempotency-Key per logical call, so that the gateway acts
// once and answers the repetition as it answered (or would have answered) the
// first.
//
// # Trust
//
// The gateway is trusted with payloads and plaintexts, not with more: its
// certificate is always verified, redirects are refused (they could carry the
// token elsewhere), answers are bounded in size, and a Signer checks each
// signature against its public key.
package client
