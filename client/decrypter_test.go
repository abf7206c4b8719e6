package client_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"net/http"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"keyhole/client"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// A compact JWE that another library made from Public is opened through the
// gateway, and so is a ciphertext of the gateway.
func TestDecrypter(t *testing.T) {
	t.Parallel()
	private, err := rsaKey()
	if err != nil {
		t.Fatal(err)
	}
	s, ca := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			reply(w, 200, api.Key{ActiveVersion: 3, Versions: []api.Version{{Version: 3, Algorithm: "RSA-OAEP-256", PublicKey: publicPEM(t, private.Public())}}})
			return
		}
		var in api.DecryptRequest
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			t.Error(err)
		}
		switch {
		case in.JWE != "" && in.Ciphertext == "" && in.AAD == nil:
			obj, err := jose.ParseEncryptedCompact(in.JWE, []jose.KeyAlgorithm{jose.RSA_OAEP_256}, []jose.ContentEncryption{jose.A256GCM})
			if err != nil || obj.Header.KeyID != "mail.v3" {
				t.Errorf("the JWE: %v", err)
				return
			}
			plaintext, err := obj.Decrypt(private)
			if err != nil {
				refuse(w, api.ProblemOf(keys.DecryptFailed()))
				return
			}
			reply(w, 200, api.DecryptResponse{Plaintext: plaintext})
		case in.Ciphertext == "kh1:mail.v3:x" && in.JWE == "" && string(in.AAD) == "row 7":
			reply(w, 200, api.DecryptResponse{Plaintext: []byte{}})
		default:
			t.Errorf("a request with %+v", in)
		}
	})
	c := connect(t, s, ca)
	d, err := c.Decrypter(t.Context(), "mail")
	if err != nil {
		t.Fatal(err)
	}
	if d.Algorithm() != keys.RSAOAEP256 || d.VersionID().String() != "mail.v3" || !private.PublicKey.Equal(d.Public()) {
		t.Errorf("a decrypter of %s by %s", d.VersionID(), d.Algorithm())
	}
	enc, err := jose.NewEncrypter(jose.A256GCM, jose.Recipient{Algorithm: jose.RSA_OAEP_256, Key: d.Public(), KeyID: d.VersionID().String()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	obj, err := enc.Encrypt([]byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	jwe, err := obj.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	var dec crypto.Decrypter = d
	if got, err := dec.Decrypt(rand.Reader, []byte(jwe), nil); err != nil || string(got) != "hello" {
		t.Errorf("the JWE opened to %q, %v", got, err)
	}
	if got, err := dec.Decrypt(nil, []byte("kh1:mail.v3:x"), &client.DecryptOptions{AAD: []byte("row 7")}); err != nil || len(got) != 0 {
		t.Errorf("the ciphertext opened to %q, %v", got, err)
	}
	changed := []byte(jwe)
	if at := len(changed) - 2; changed[at] == 'A' { // to another letter of base64url
		changed[at] = 'B'
	} else {
		changed[at] = 'A'
	}
	if _, err := dec.Decrypt(nil, changed, (*client.DecryptOptions)(nil)); !errors.Is(err, keys.ErrDecrypt) {
		t.Errorf("a changed JWE: %v, want ErrDecrypt", err)
	}

	// Bare RSA blocks are not opened, with whatever options.
	block, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &private.PublicKey, []byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, opts := range []crypto.DecrypterOpts{nil, &rsa.OAEPOptions{Hash: crypto.SHA256}, struct{}{}} {
		if _, err := dec.Decrypt(nil, block, opts); !errors.Is(err, keys.ErrInvalid) {
			t.Errorf("a bare block with %T: %v, want ErrInvalid", opts, err)
		}
	}
	if _, err := dec.Decrypt(nil, []byte(jwe), &rsa.OAEPOptions{Hash: crypto.SHA256}); !errors.Is(err, keys.ErrInvalid) {
		t.Errorf("a JWE with RSA options: %v, want ErrInvalid", err)
	}
}
