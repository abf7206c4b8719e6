package api

// Signature formats.
const (
	FormatRaw         = "raw"          // the token's own: ECDSA as r||s, each as wide as the curve (default)
	FormatDER         = "der"          // ECDSA as ASN.1 SEQUENCE (X.509, openssl); others as raw
	FormatJWS         = "jws"          // compact JWS
	FormatJWSDetached = "jws-detached" // compact JWS without its payload (RFC 7515, appendix F)
)

// SignRequest asks for a signature or MAC by the key's active version.
// Exactly one of Payload and Digest is set.
type SignRequest struct {
	Payload []byte `json:"payload,omitzero"`
	Digest  []byte `json:"digest,omitzero"` // as long as the algorithm's hash; not for EdDSA and HS*
	Hash    string `json:"hash,omitempty"`  // of Digest: sha-256, sha-384, sha-512; default the algorithm's own
	Format  string `json:"format,omitempty"`
}

// SignResponse holds Signature, or JWS for the jws formats.
type SignResponse struct {
	Key       string `json:"key"`
	Version   uint32 `json:"version"`
	KeyID     string `json:"kid"`
	Algorithm string `json:"algorithm"`
	Signature []byte `json:"signature,omitzero"`
	JWS       string `json:"jws,omitempty"`
}

// VerifyRequest holds Payload or Digest with Signature and Version, or JWS
// (a detached one with Payload).
type VerifyRequest struct {
	Payload   []byte `json:"payload,omitzero"`
	Digest    []byte `json:"digest,omitzero"`
	Hash      string `json:"hash,omitempty"`
	Signature []byte `json:"signature,omitzero"`
	Format    string `json:"format,omitempty"` // of Signature: raw (default) or der
	Version   uint32 `json:"version,omitzero"`
	JWS       string `json:"jws,omitempty"`
}

// Reasons in VerifyResponse, beside the states in which a version's
// signatures are not trusted: suspended, compromised, destroy-scheduled and
// destroyed.
const (
	ReasonBadSignature = "bad-signature"
	ReasonAlgorithm    = "algorithm-mismatch" // the JWS header names another algorithm than the version's
)

// VerifyResponse says whether the signature holds. A good signature by a
// version that may no longer be trusted is not valid, and Reason says why.
type VerifyResponse struct {
	Key       string `json:"key"`
	Version   uint32 `json:"version"`
	KeyID     string `json:"kid"`
	Algorithm string `json:"algorithm"`
	Valid     bool   `json:"valid"`
	State     string `json:"state"`
	Reason    string `json:"reason,omitempty"`
}

// EncryptRequest asks for an envelope under the key's active version. AAD is
// bound to the ciphertext and must be given again to decrypt.
type EncryptRequest struct {
	Plaintext []byte `json:"plaintext,omitzero"`
	AAD       []byte `json:"aad,omitzero"`
}

// EncryptResponse holds the ciphertext, "kh1:payments.v3:...".
type EncryptResponse struct {
	Key        string `json:"key"`
	Version    uint32 `json:"version"`
	KeyID      string `json:"kid"`
	Ciphertext string `json:"ciphertext"`
}

// DecryptRequest holds exactly one of Ciphertext and JWE; AAD goes with
// Ciphertext only.
type DecryptRequest struct {
	Ciphertext string `json:"ciphertext,omitempty"`
	JWE        string `json:"jwe,omitempty"`
	AAD        []byte `json:"aad,omitzero"`
}

// DecryptResponse holds the plaintext and the version that had sealed it.
type DecryptResponse struct {
	Key       string `json:"key"`
	Version   uint32 `json:"version"`
	KeyID     string `json:"kid"`
	State     string `json:"state"`
	Plaintext []byte `json:"plaintext"`
}

// RewrapRequest asks for the same plaintext under the active version.
type RewrapRequest struct {
	Ciphertext string `json:"ciphertext"`
	AAD        []byte `json:"aad,omitzero"`
}

// RewrapResponse holds the new ciphertext.
type RewrapResponse struct {
	Key         string `json:"key"`
	Version     uint32 `json:"version"`
	KeyID       string `json:"kid"`
	FromVersion uint32 `json:"from_version"`
	Ciphertext  string `json:"ciphertext"`
}

// DataKeyRequest asks for a fresh data key made by the HSM.
type DataKeyRequest struct {
	Bits      int    `json:"bits,omitzero"`       // 128 or 256 (default)
	Plaintext *bool  `json:"plaintext,omitempty"` // also return it in the clear (default true)
	AAD       []byte `json:"aad,omitzero"`
}

// DataKeyResponse holds the data key sealed under the active version and,
// unless declined, in the clear.
type DataKeyResponse struct {
	Key        string `json:"key"`
	Version    uint32 `json:"version"`
	KeyID      string `json:"kid"`
	Ciphertext string `json:"ciphertext"`
	Plaintext  []byte `json:"plaintext,omitzero"`
}

// MaxBatch is the most items in a batch.
const MaxBatch = 1000

// BatchRequest holds 1 to MaxBatch items.
type BatchRequest[T any] struct {
	Items []T `json:"items"`
}

// BatchResponse holds one result per item, in the order asked.
type BatchResponse[T any] struct {
	Items []BatchItem[T] `json:"items"`
}

// BatchItem is a result or an error, never both.
type BatchItem[T any] struct {
	Result *T         `json:"result,omitempty"`
	Error  *ItemError `json:"error,omitempty"`
}

// ItemError is a Problem within a batch.
type ItemError struct {
	Code   string `json:"code"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
}

// MaxRandom is the most bytes of one RandomRequest.
const MaxRandom = 4096

// RandomRequest asks for 1 to MaxRandom bytes from the HSM.
type RandomRequest struct {
	Bytes int `json:"bytes"`
}

// RandomResponse holds them.
type RandomResponse struct {
	Random []byte `json:"random"`
}

// WhoAmI tells callers who they are to the gateway.
type WhoAmI struct {
	Principal string   `json:"principal"`
	Groups    []string `json:"groups"`
	Method    string   `json:"method"` // jwt, mtls or jwt+mtls
	ExpiresAt Time     `json:"expires_at,omitzero"`
}
