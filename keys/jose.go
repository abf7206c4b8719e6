package keys

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"strings"
)

// Header is the part of a JOSE header that Keyhole understands. Members
// that change how a token must be read (crit, b64, zip, and anything that
// names a key from outside) are refused; unknown descriptive members are
// not, as RFC 7515, 4 demands.
type Header struct {
	Algorithm   string `json:"alg"`
	Encryption  string `json:"enc,omitempty"`
	KeyID       string `json:"kid,omitempty"`
	Type        string `json:"typ,omitempty"`
	ContentType string `json:"cty,omitempty"`
}

// maxHeader bounds a protected header in bytes of base64url.
const maxHeader = 4096

// refusedMembers change the meaning of a token (RFC 8725, 3.1, 3.10).
var refusedMembers = []string{"crit", "b64", "zip", "jku", "jwk", "x5u", "x5c", "epk", "p2s", "p2c"}

// JWS is a compact JWS (RFC 7515, 7.1), possibly detached (appendix F).
type JWS struct {
	Header       Header
	SigningInput []byte // BASE64URL(header) || '.' || BASE64URL(payload)
	Payload      []byte
	Signature    []byte
}

// SigningInput returns the protected header and signing input of a compact
// JWS by version id over payload.
func SigningInput(alg Algorithm, id VersionID, payload []byte) []byte {
	header, _ := json.Marshal(Header{Algorithm: string(alg), KeyID: id.String()}) // strings only: cannot fail
	enc := base64.RawURLEncoding
	out := make([]byte, 0, enc.EncodedLen(len(header))+1+enc.EncodedLen(len(payload)))
	out = enc.AppendEncode(out, header)
	out = append(out, '.')
	return enc.AppendEncode(out, payload)
}

// CompactJWS joins a signing input and its signature; detached leaves the
// payload part empty.
func CompactJWS(signingInput, signature []byte, detached bool) string {
	enc := base64.RawURLEncoding
	if detached {
		i := bytes.IndexByte(signingInput, '.')
		signingInput = signingInput[:i+1]
	}
	out := make([]byte, 0, len(signingInput)+1+enc.EncodedLen(len(signature)))
	out = append(out, signingInput...)
	out = append(out, '.')
	return string(enc.AppendEncode(out, signature))
}

// ParseJWS reads a compact JWS. A detached one (empty payload part) takes
// its payload from detached, which must be nil otherwise. The algorithm is
// not judged here: the caller compares it with the key's. The error is
// ErrInvalid.
func ParseJWS(compact string, detached []byte) (*JWS, error) {
	parts := strings.Split(compact, ".")
	if len(parts) != 3 {
		return nil, Errorf(ErrInvalid, "a compact JWS has three parts between dots, not %d", len(parts))
	}
	h, err := parseHeader(parts[0])
	if err != nil {
		return nil, err
	}
	jws := &JWS{Header: *h}
	switch {
	case parts[1] == "":
		jws.Payload = detached
		parts[1] = base64.RawURLEncoding.EncodeToString(detached)
	case detached != nil:
		return nil, Errorf(ErrInvalid, "the JWS holds its payload; send no \"payload\" beside it")
	default:
		if jws.Payload, err = decodeSegment("payload", parts[1]); err != nil {
			return nil, err
		}
	}
	if jws.Signature, err = decodeSegment("signature", parts[2]); err != nil {
		return nil, err
	}
	jws.SigningInput = []byte(parts[0] + "." + parts[1])
	return jws, nil
}

// JWE is a compact JWE (RFC 7516, 7.1).
type JWE struct {
	Header       Header
	Protected    []byte // the additional data: ASCII(BASE64URL(header))
	EncryptedKey []byte
	IV           []byte
	Ciphertext   []byte
	Tag          []byte
}

// ParseJWE reads a compact JWE with RSA-OAEP-256 or RSA-OAEP and A256GCM;
// anything else is refused. The error is ErrInvalid.
func ParseJWE(compact string) (*JWE, error) {
	parts := strings.Split(compact, ".")
	if len(parts) != 5 {
		return nil, Errorf(ErrInvalid, "a compact JWE has five parts between dots, not %d", len(parts))
	}
	h, err := parseHeader(parts[0])
	if err != nil {
		return nil, err
	}
	if h.Algorithm != string(RSAOAEP256) && h.Algorithm != string(RSAOAEP) {
		return nil, Errorf(ErrInvalid, "the JWE's \"alg\" must be RSA-OAEP-256 or RSA-OAEP")
	}
	if h.Encryption != string(A256GCM) {
		return nil, Errorf(ErrInvalid, "the JWE's \"enc\" must be A256GCM")
	}
	jwe := &JWE{Header: *h, Protected: []byte(parts[0])}
	for _, seg := range []struct {
		name string
		text string
		to   *[]byte
	}{
		{"encrypted key", parts[1], &jwe.EncryptedKey},
		{"IV", parts[2], &jwe.IV},
		{"ciphertext", parts[3], &jwe.Ciphertext},
		{"tag", parts[4], &jwe.Tag},
	} {
		if *seg.to, err = decodeSegment(seg.name, seg.text); err != nil {
			return nil, err
		}
	}
	if len(jwe.IV) != gcmIVSize || len(jwe.Tag) != gcmTagSize || len(jwe.EncryptedKey) > maxWrapped {
		return nil, Errorf(ErrInvalid, "the JWE's IV, tag or encrypted key has a wrong length")
	}
	return jwe, nil
}

// Open decrypts the content with the unwrapped content encryption key. The
// error is ErrDecrypt, whatever was wrong.
func (j *JWE) Open(cek []byte) ([]byte, error) {
	gcm, err := newGCM(cek)
	if err != nil {
		return nil, errDecrypt
	}
	sealed := append(bytes.Clone(j.Ciphertext), j.Tag...)
	plaintext, err := gcm.Open(nil, j.IV, sealed, j.Protected)
	if err != nil {
		return nil, errDecrypt
	}
	return plaintext, nil
}

func decodeSegment(name, text string) ([]byte, error) {
	if strings.ContainsAny(text, "\r\n") {
		return nil, Errorf(ErrInvalid, "the %s part holds line breaks", name)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, Errorf(ErrInvalid, "the %s part is not base64url without padding", name)
	}
	return b, nil
}

func parseHeader(text string) (*Header, error) {
	if len(text) > maxHeader {
		return nil, Errorf(ErrInvalid, "the JOSE header has more than %d bytes", maxHeader)
	}
	raw, err := decodeSegment("header", text)
	if err != nil {
		return nil, err
	}
	bad := Errorf(ErrInvalid, "the JOSE header is not one JSON object with distinct string members")
	members, err := headerMembers(raw)
	if err != nil {
		return nil, bad
	}
	for _, m := range refusedMembers {
		if members[m] {
			return nil, Errorf(ErrInvalid, "the JOSE header member %q is not supported", m)
		}
	}
	var h Header
	if err := json.Unmarshal(raw, &h); err != nil {
		return nil, bad
	}
	return &h, nil
}

// headerMembers returns the member names of a JSON object and refuses
// duplicates: two parsers that pick different ones would disagree on what
// was signed (RFC 7515, 4). encoding/json also matches names in any case,
// so "ALG" is refused like a second "alg".
func headerMembers(raw []byte) (map[string]bool, error) {
	bad := ErrInvalid
	dec := json.NewDecoder(bytes.NewReader(raw))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, bad
	}
	members := map[string]bool{}
	folded := map[string]bool{}
	for dec.More() {
		t, err := dec.Token()
		name, ok := t.(string)
		if err != nil || !ok || folded[strings.ToLower(name)] {
			return nil, bad
		}
		members[name], folded[strings.ToLower(name)] = true, true
		if l := strings.ToLower(name); l != name {
			switch l {
			case "alg", "enc", "kid", "typ", "cty":
				return nil, bad
			}
		}
		var skip json.RawMessage
		if err := dec.Decode(&skip); err != nil {
			return nil, bad
		}
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return nil, bad
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, bad
	}
	return members, nil
}
