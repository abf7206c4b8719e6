package wycheproof

import (
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"keyhole/authz"
	"keyhole/gateway"
	"keyhole/gateway/api"
	"keyhole/gateway/gatewaytest"
	"keyhole/hsm"
	"keyhole/keys"
	"keyhole/softhsm/softhsmtest"
	"keyhole/store"
)

// fixture is a gateway over a SoftHSM token, and a session of the test's own
// on that token, to put keys there that no gateway would take.
type fixture struct {
	*gatewaytest.Gateway
	hsm     *hsm.HSM
	pkcs11  *pkcs11.Ctx
	session pkcs11.SessionHandle
	keys    int
	objects []pkcs11.ObjectHandle
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	tok := softhsmtest.Start(t)
	h, err := hsm.Open(t.Context(), hsm.Config{
		Tokens: []hsm.TokenConfig{{Name: "t", Module: tok.Module, Serial: tok.Serial, PIN: func() ([]byte, error) { return []byte(tok.PIN), nil }}},
		Log:    slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	must(t, err)
	fx := &fixture{hsm: h, pkcs11: pkcs11.New(tok.Module)}
	fx.Gateway = gatewaytest.Start(t, gatewaytest.Options{Backend: h}) // closes h
	slots, err := fx.pkcs11.GetSlotList(true)
	must(t, err)
	slot := slices.IndexFunc(slots, func(s uint) bool {
		info, err := fx.pkcs11.GetTokenInfo(s)
		return err == nil && info.SerialNumber == tok.Serial
	})
	if slot < 0 {
		t.Fatal("the token is not there")
	}
	fx.session, err = fx.pkcs11.OpenSession(slots[slot], pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	must(t, err)
	t.Cleanup(func() { _ = fx.pkcs11.CloseSession(fx.session) })
	return fx
}

// caller may do everything.
var caller = gateway.Request{
	ID: "wycheproof", Source: netip.MustParseAddr("192.0.2.1"),
	Caller: authz.Principal{ID: gatewaytest.Principal("wycheproof"), Method: authz.MethodJWT, Groups: []string{gatewaytest.Admins}},
}

// refFor begins the description of a key that is not made yet.
func (fx *fixture) refFor(alg keys.Algorithm, bits int) keys.Ref {
	fx.keys++
	return keys.Ref{Token: "t", ID: keys.NewObjectID(), Label: fmt.Sprintf("vector-%d.v1", fx.keys), Algorithm: alg, Bits: bits}
}

// public describes a key of which only the public half is known.
func (fx *fixture) public(alg keys.Algorithm, bits int, spki []byte) keys.Ref {
	ref := fx.refFor(alg, bits)
	ref.PublicKey, ref.Check = spki, keys.PublicKeyCheck(spki)
	return ref
}

// serve makes keys of refs in the gateway, and returns their names.
func (fx *fixture) serve(t *testing.T, refs ...keys.Ref) []string {
	t.Helper()
	names := make([]string, len(refs))
	then := time.Now().Add(-time.Minute)
	for i, ref := range refs {
		id, err := keys.ParseVersionID(ref.Label)
		must(t, err)
		names[i] = id.Key
		must(t, fx.Store.Commit(t.Context(), store.Change{Key: &keys.Key{
			Name: id.Key, Purpose: ref.Algorithm.Purpose(), Algorithm: ref.Algorithm, Bits: ref.Bits, Token: ref.Token, Epoch: 1, CreatedAt: then,
			Versions: []*keys.Version{{
				Number: 1, ObjectID: ref.ID, Algorithm: ref.Algorithm, Bits: ref.Bits, PublicKey: ref.PublicKey, Check: ref.Check,
				ReservedAt: then, CreatedAt: then, AnnouncedAt: then, ActivateAt: then, ActivatedAt: then,
			}},
		}}))
	}
	must(t, fx.Cache.Refresh(t.Context()))
	return names
}

// verify asks the gateway about a signature.
func (fx *fixture) verify(t *testing.T, key string, in api.VerifyRequest) bool {
	t.Helper()
	return fx.verifyAll(t, key, []api.VerifyRequest{in})[0]
}

// verifyAll asks the gateway about many, in batches.
func (fx *fixture) verifyAll(t *testing.T, key string, all []api.VerifyRequest) (valid []bool) {
	t.Helper()
	for i := range all {
		if in := &all[i]; in.JWS == "" { // nothing is missing: it is empty
			if in.Payload == nil && in.Digest == nil {
				in.Payload = []byte{}
			}
			if in.Signature == nil {
				in.Signature = []byte{}
			}
		}
	}
	for some := range slices.Chunk(all, api.MaxBatch) {
		items, err := fx.Service.VerifyBatch(t.Context(), caller, key, some)
		must(t, err)
		for _, item := range items {
			if item.Error != nil && item.Error.Code != "invalid_argument" {
				t.Errorf("%s: %+v", key, item.Error)
			}
			valid = append(valid, item.Result != nil && item.Result.Valid)
		}
	}
	return valid
}

// learn finds out what the token's object of ref is, as `keyholed adopt`
// does: it uses the key.
func (fx *fixture) learn(t *testing.T, ref keys.Ref) (keys.Ref, error) {
	t.Helper()
	made, err := fx.hsm.Inspect(t.Context(), ref)
	if err == nil {
		ref.PublicKey, ref.Check = made.PublicKey, made.Check
	}
	return ref, err
}

// create puts an object on the token, with the attributes that Keyhole's own
// keys have.
func (fx *fixture) create(t *testing.T, ref keys.Ref, class, keyType uint, uses []uint, material ...*pkcs11.Attribute) {
	t.Helper()
	all := append([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, keyType),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, class != pkcs11.CKO_PUBLIC_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_ID, ref.ID[:]), pkcs11.NewAttribute(pkcs11.CKA_LABEL, ref.Label),
	}, material...)
	if class != pkcs11.CKO_PUBLIC_KEY {
		all = append(all, pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false))
	}
	known := map[uint][]uint{
		pkcs11.CKO_SECRET_KEY:  {pkcs11.CKA_SIGN, pkcs11.CKA_VERIFY, pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT, pkcs11.CKA_WRAP, pkcs11.CKA_UNWRAP, pkcs11.CKA_DERIVE},
		pkcs11.CKO_PRIVATE_KEY: {pkcs11.CKA_SIGN, pkcs11.CKA_DECRYPT, pkcs11.CKA_UNWRAP, pkcs11.CKA_SIGN_RECOVER, pkcs11.CKA_DERIVE},
		pkcs11.CKO_PUBLIC_KEY:  {pkcs11.CKA_VERIFY, pkcs11.CKA_ENCRYPT, pkcs11.CKA_WRAP, pkcs11.CKA_VERIFY_RECOVER},
	}
	for _, u := range known[class] {
		all = append(all, pkcs11.NewAttribute(u, slices.Contains(uses, u)))
	}
	h, err := fx.pkcs11.CreateObject(fx.session, all)
	must(t, err)
	fx.objects = append(fx.objects, h)
}

// forget takes from the token what was put there: SoftHSM grows slow with
// many objects.
func (fx *fixture) forget(t *testing.T) {
	t.Helper()
	for _, h := range fx.objects {
		must(t, fx.pkcs11.DestroyObject(fx.session, h))
	}
	fx.objects = nil
}

// secret puts a secret key on the token.
func (fx *fixture) secret(t *testing.T, alg keys.Algorithm, value []byte) (keys.Ref, error) {
	t.Helper()
	ref := fx.refFor(alg, 8*len(value))
	keyType, uses := uint(pkcs11.CKK_GENERIC_SECRET), []uint{pkcs11.CKA_SIGN}
	if alg.Family() == keys.FamilyAES {
		keyType, uses = pkcs11.CKK_AES, []uint{pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT}
	}
	fx.create(t, ref, pkcs11.CKO_SECRET_KEY, keyType, uses, pkcs11.NewAttribute(pkcs11.CKA_VALUE, value))
	return fx.learn(t, ref)
}

// judge compares Keyhole's decision with the vector's, or with the exception
// for it.
func judge(t *testing.T, f *file, v *vector, accepted bool) {
	t.Helper()
	want := v.valid()
	for _, e := range exceptions {
		if e.file == f.Name && slices.Contains(e.ids, v.ID) {
			e.met, want = true, !want
		}
	}
	if accepted != want {
		t.Errorf("%s %d (%s, %v) is %q; accepted: %v", f.Name, v.ID, v.Comment, v.Flags, v.Result, accepted)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
