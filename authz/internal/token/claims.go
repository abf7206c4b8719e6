package token

import (
	"encoding/base64"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/golang-jwt/jwt/v5"

	"keyhole/authz/internal/reason"
	"keyhole/authz/internal/text"
)

// Bounds of what a token may say, in bytes and groups.
const (
	maxSubject = 256
	maxGroup   = 256
	maxGroups  = 256
)

// header is what matters of a token's JOSE header. Members that point to a
// key elsewhere (jku, x5u, x5c) are never read.
type header struct {
	Alg  string         `json:"alg"`
	Typ  *string        `json:"typ"`
	Kid  *string        `json:"kid"`
	Crit jsontext.Value `json:"crit"`
	JWK  jsontext.Value `json:"jwk"`
}

// claims are a token's payload. Every member is there once, at every level.
type claims struct {
	issuer        string
	audience      []string
	exp, nbf, iat *jwt.NumericDate // nil: not there
	all           map[string]jsontext.Value
}

// segment decodes one of a token's parts, which is base64url without
// padding, and with no bits that decode to nothing.
func segment(s string, into any) error {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return reason.Malformed
	}
	// Unlike encoding/json, this refuses members given twice and text that
	// is not UTF-8, and does not take "ALG" for "alg".
	if json.Unmarshal(raw, into) != nil {
		return reason.Malformed
	}
	return nil
}

// peek reads a token without verifying anything.
func peek(token string) (h header, c claims, err error) {
	if strings.ContainsAny(token, "\r\n") {
		return h, c, reason.Malformed // base64 would skip them
	}
	first, rest, _ := strings.Cut(token, ".")
	second, third, ok := strings.Cut(rest, ".")
	if !ok || strings.Contains(third, ".") {
		return h, c, reason.Malformed
	}
	if err := segment(first, &h); err != nil {
		return h, c, err
	}
	return h, c, segment(second, &c)
}

// UnmarshalJSON reads the payload for the parser of golang-jwt and for peek.
func (c *claims) UnmarshalJSON(b []byte) error {
	*c = claims{}
	if err := json.Unmarshal(b, &c.all); err != nil || c.all == nil {
		return reason.Malformed
	}
	var err error
	if c.exp, err = c.date("exp"); err != nil {
		return err
	}
	if c.nbf, err = c.date("nbf"); err != nil {
		return err
	}
	if c.iat, err = c.date("iat"); err != nil {
		return err
	}
	if raw, ok := c.all["iss"]; ok && json.Unmarshal(raw, &c.issuer) != nil {
		return reason.Malformed
	}
	if raw, ok := c.all["aud"]; ok {
		if c.audience, ok = stringOrStrings(raw); !ok {
			return reason.Malformed
		}
	}
	return nil
}

// date reads a NumericDate. Times outside the years 1970 to 9999 are not
// times, and a float beyond an int64 would become any.
func (c *claims) date(name string) (*jwt.NumericDate, error) {
	raw, ok := c.all[name]
	if !ok {
		return nil, nil
	}
	var f float64
	if raw.Kind() != '0' || json.Unmarshal(raw, &f) != nil || !(f >= 0 && f <= 253402300799) {
		return nil, reason.Malformed
	}
	return &jwt.NumericDate{Time: time.UnixMilli(int64(f * 1000))}, nil
}

func stringOrStrings(raw jsontext.Value) ([]string, bool) {
	switch raw.Kind() {
	case '"':
		var s string
		err := json.Unmarshal(raw, &s)
		return []string{s}, err == nil
	case '[':
		var all []jsontext.Value
		if json.Unmarshal(raw, &all) != nil {
			return nil, false
		}
		list := make([]string, len(all))
		for i, v := range all {
			if v.Kind() != '"' || json.Unmarshal(v, &list[i]) != nil {
				return nil, false
			}
		}
		return list, true
	}
	return nil, false
}

// The Claims interface of golang-jwt.

func (c *claims) GetExpirationTime() (*jwt.NumericDate, error) { return c.exp, nil }
func (c *claims) GetNotBefore() (*jwt.NumericDate, error)      { return c.nbf, nil }
func (c *claims) GetIssuedAt() (*jwt.NumericDate, error)       { return c.iat, nil }
func (c *claims) GetAudience() (jwt.ClaimStrings, error)       { return c.audience, nil }
func (c *claims) GetIssuer() (string, error)                   { return c.issuer, nil }
func (c *claims) GetSubject() (string, error)                  { return "", nil } // the configured claim is checked later

// subject returns the claim that names the caller.
func (c *claims) subject(claim string) (string, error) {
	var s string
	raw, ok := c.all[claim]
	if !ok || raw.Kind() != '"' || json.Unmarshal(raw, &s) != nil || !text.Printable(s, maxSubject) {
		return "", reason.Subject
	}
	return s, nil
}

// groups returns the caller's groups: an array of strings, or one string
// with spaces between them. null and absence mean none.
func (c *claims) groups(claim, prefix string) ([]string, error) {
	raw, ok := c.all[claim]
	if !ok || raw.Kind() == 'n' {
		return nil, nil
	}
	list, ok := stringOrStrings(raw)
	if !ok {
		return nil, reason.Groups
	}
	if raw.Kind() == '"' {
		list = strings.Fields(list[0])
	}
	if len(list) > maxGroups {
		return nil, reason.Groups
	}
	for i, g := range list {
		if !text.Printable(g, maxGroup) {
			return nil, reason.Groups
		}
		list[i] = prefix + g
	}
	return list, nil
}

// confirmation returns the thumbprint of the client certificate that the
// token is bound to (RFC 8705); nil means that it is bound to nothing. A
// binding of any other kind is refused: taking the token without checking
// it would make a bearer token of it.
func (c *claims) confirmation() (*Thumbprint, error) {
	raw, ok := c.all["cnf"]
	if !ok {
		return nil, nil
	}
	var cnf map[string]jsontext.Value
	var s string
	if json.Unmarshal(raw, &cnf) != nil || len(cnf) != 1 || cnf["x5t#S256"].Kind() != '"' ||
		json.Unmarshal(cnf["x5t#S256"], &s) != nil {
		return nil, reason.Confirmation
	}
	sum, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(sum) != len(Thumbprint{}) {
		return nil, reason.Confirmation
	}
	t := Thumbprint(sum)
	return &t, nil
}
