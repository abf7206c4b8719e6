package api_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"keyhole/gateway/api"
)

func encode(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestBytesAreStandardBase64AndNilIsAbsent(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		in   any
		want string
	}{
		{api.SignRequest{Payload: []byte{0xfb, 0xff}}, `{"payload":"+/8="}`},
		{api.SignRequest{Payload: []byte{}}, `{"payload":""}`},
		{api.SignRequest{}, `{}`},
		{api.DecryptResponse{Plaintext: []byte{}}, `{"key":"","version":0,"kid":"","state":"","plaintext":""}`},
		{api.DataKeyRequest{Plaintext: new(bool)}, `{"plaintext":false}`},
		{api.DataKeyRequest{}, `{}`},
		{api.EncryptRequest{Plaintext: []byte{}, AAD: []byte("a")}, `{"plaintext":"","aad":"YQ=="}`},
		{api.VerifyResponse{}, `{"key":"","version":0,"kid":"","algorithm":"","valid":false,"state":""}`},
	} {
		if got := encode(t, tt.in); got != tt.want {
			t.Errorf("%+v is %s, want %s", tt.in, got, tt.want)
		}
	}
	var req api.SignRequest
	if err := json.Unmarshal([]byte(`{"payload":""}`), &req); err != nil || req.Payload == nil || len(req.Payload) != 0 {
		t.Errorf("an empty payload was read as %#v, %v", req.Payload, err)
	}
}

func TestTimesAreUTC(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 13, 0, 0, 123456789, time.FixedZone("", 3600))
	if got := encode(t, api.At(at)); got != `"2026-03-01T12:00:00.123456Z"` {
		t.Errorf("At: %s", got)
	}
	if got := encode(t, api.Time{Time: at}); !strings.HasSuffix(got, `Z"`) {
		t.Errorf("a local time is written as %s", got)
	}
	var back api.Time
	if err := json.Unmarshal([]byte(`"2026-03-01T12:00:00.123456Z"`), &back); err != nil || !back.Equal(api.At(at).Time) {
		t.Errorf("came back as %s, %v", back, err)
	}
	version := encode(t, api.Version{CreatedAt: api.At(at)})
	for _, absent := range []string{"revoked_at", "destroy_at", "deactivated_at", "0001-01-01"} {
		if strings.Contains(version, absent) {
			t.Errorf("%s is in %s", absent, version)
		}
	}
}

func TestDurationsHaveAUnit(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{`"720h"`: 720 * time.Hour, `"30m"`: 30 * time.Minute, `"0s"`: 0, `"1h30m"`: 90 * time.Minute} {
		var p api.Policy
		if err := json.Unmarshal([]byte(`{"period":`+text+`}`), &p); err != nil || p.Period.Std() != want {
			t.Errorf("%s was read as %s, %v", text, p.Period.Std(), err)
		}
		var again api.Policy
		if err := json.Unmarshal([]byte(encode(t, p)), &again); err != nil || again != p {
			t.Errorf("%s came back as %+v, %v", text, again, err)
		}
	}
	for _, text := range []string{`720`, `"720"`, `""`, `"30 days"`, `"1d"`, `{}`} {
		var p api.Policy
		if err := json.Unmarshal([]byte(`{"period":`+text+`}`), &p); err == nil {
			t.Errorf("%s was read as %s", text, p.Period.Std())
		}
	}
}

// A description survives the way there and back, and unknown members are
// what a strict decoder refuses.
func TestKeyRoundTrip(t *testing.T) {
	t.Parallel()
	now := api.At(time.Now())
	k := api.Key{
		Name: "payments", Purpose: "sign", Algorithm: "ES256", Bits: 256, Tags: map[string]string{"team": "pay"}, Token: "main",
		ActiveVersion: 2, Epoch: 7, CreatedAt: now, Policy: api.Policy{Period: api.Duration(time.Hour)},
		Versions: []api.Version{{
			Version: 2, KeyID: "payments.v2", State: "active", Algorithm: "ES256", Bits: 256, CreatedAt: now, ActivateAt: now,
			PublicKey: "PEM", JWK: &api.JWK{KeyType: "EC", Use: "sig", Algorithm: "ES256", KeyID: "payments.v2", Curve: "P-256", X: "x", Y: "y"},
			HSM: api.HSM{Token: "main", CKAID: "00", NeverExtractable: true, AlwaysSensitive: true},
		}},
	}
	dec := json.NewDecoder(strings.NewReader(encode(t, k)))
	dec.DisallowUnknownFields()
	var back api.Key
	if err := dec.Decode(&back); err != nil || !reflect.DeepEqual(back, k) {
		t.Errorf("came back as %+v, %v", back, err)
	}
}

func TestBatchItemIsAResultOrAnError(t *testing.T) {
	t.Parallel()
	got := encode(t, api.BatchResponse[api.RandomResponse]{Items: []api.BatchItem[api.RandomResponse]{
		{Result: &api.RandomResponse{Random: []byte("a")}},
		{Error: &api.ItemError{Code: "invalid_argument", Status: 422, Detail: "why"}},
	}})
	want := `{"items":[{"result":{"random":"YQ=="}},{"error":{"code":"invalid_argument","status":422,"detail":"why"}}]}`
	if got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
