package strictjson_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"keyhole/gateway/api"
	"keyhole/gateway/rest/internal/strictjson"
	"keyhole/keys"
)

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		to         func() any
		body, says string
	}{
		{sign, ``, "empty"},
		{sign, " \n\t", "empty"},
		{sign, `null`, "must be a JSON object"},
		{sign, `[]`, "must be a JSON object"},
		{sign, `"x"`, "must be a JSON object"},
		{sign, `7`, "must be a JSON object"},
		{sign, "\xef\xbb\xbf{}", "must be a JSON object"},
		{sign, `payload=YQ==`, "must be a JSON object"},
		{sign, `{`, "too early"},
		{sign, `{"payload":"YQ=="`, "too early"},
		{sign, `{"payload":"YQ==",}`, "not valid JSON at byte"},
		{sign, `{'payload':1}`, "not valid JSON at byte"},
		{sign, `{"payload":"YQ=="} {}`, "behind the JSON object"},
		{sign, `{}x`, "behind the JSON object"},
		{sign, "{}\x00", "behind the JSON object"},
		{sign, `{"Payload":"YQ=="}`, `"Payload" is unknown`},
		{sign, `{"payload":"YQ==","PAYLOAD":"Yg=="}`, `"PAYLOAD" is unknown`},
		{sign, `{"extra":{"deep":[1,2]}}`, `"extra" is unknown`},
		{sign, `{"payload":"YQ==","payload":"Yg=="}`, `"payload" appears twice`},
		{sign, `{"payload":"YQ==","p\u0061yload":"Yg=="}`, `"payload" appears twice`},
		{sign, `{"payload":null}`, `"payload" must be standard base64`},
		{sign, `{"format":null}`, `"format" is null`},
		{sign, `{"payload":"YQ"}`, `"payload" must be standard base64`},
		{sign, `{"payload":"YR=="}`, `"payload" must be standard base64`},
		{sign, `{"payload":"YQ==\n"}`, `"payload" must be standard base64`},
		{sign, `{"payload":"Y\r\nQ=="}`, `"payload" must be standard base64`},
		{sign, `{"payload":"-_-_"}`, `"payload" must be standard base64`},
		{sign, `{"payload":"YQ== "}`, `"payload" must be standard base64`},
		{sign, `{"payload":"====" }`, `"payload" must be standard base64`},
		{sign, `{"payload":[1,2]}`, `"payload" must be standard base64`},
		{sign, `{"payload":7}`, `"payload" must be standard base64`},
		{sign, `{"hash":5}`, `"hash" must be a string`},
		{sign, `{"hash":["sha-256"]}`, `"hash" must be a string`},
		{sign, "{\"hash\":\"\xff\"}", "not valid UTF-8"},
		{sign, `{"hash":"\ud800"}`, "not valid"},
		{verify, `{"version":"1"}`, `"version" must be an integer from 0 to 4294967295`},
		{verify, `{"version":-1}`, `"version" must be an integer from 0`},
		{verify, `{"version":4294967296}`, `"version" must be an integer from 0`},
		{verify, `{"version":1.5}`, `"version" must be an integer`},
		{verify, `{"version":1e2}`, `"version" must be an integer`},
		{verify, `{"version":01}`, "not valid JSON"},
		{dataKey, `{"plaintext":"yes"}`, `"plaintext" must be true or false`},
		{dataKey, `{"bits":true}`, `"bits" must be an integer`},
		{dataKey, `{"bits":99999999999999999999}`, `"bits" must be an integer`},
		{create, `{"policy":"720h"}`, `"policy" must be an object`},
		{create, `{"policy":{"period":720}}`, `"policy.period" must be a duration with its unit`},
		{create, `{"policy":{"period":"720"}}`, `"policy.period" must be a duration with its unit`},
		{create, `{"policy":{"periods":"1h"}}`, `"policy.periods" is unknown`},
		{create, `{"tags":{"a":1}}`, `"tags.a" must be a string`},
		{create, `{"tags":{"a":"1","a":"2"}}`, `"tags.a" appears twice`},
		{create, `{"tags":{"a":null}}`, `"tags.a" is null`},
		{create, `{"tags":["a"]}`, `"tags" must be an object`},
		{update, `{"tags":null}`, `"tags" is null`},
		{update, `{"epoch":-1}`, `"epoch" must be an integer, not negative`},
		{sign, `{"` + strings.Repeat("x", 5000) + `":1}`, `xxx..."`},
		{sign, `{"a\nb\u0000":1}`, `\n`},
	} {
		err := strictjson.Decode([]byte(tt.body), tt.to())
		if !errors.Is(err, keys.ErrMalformed) {
			t.Errorf("%.80s: %v, want ErrMalformed", tt.body, err)
			continue
		}
		text := err.Error()
		if !strings.Contains(text, tt.says) || len(text) > 300 {
			t.Errorf("%.80s: %q, want it to say %q", tt.body, text, tt.says)
		}
		for _, leak := range []string{"api.", "uint", "[]byte", "Go ", "struct", "json:", "*"} {
			if strings.Contains(text, leak) {
				t.Errorf("%.80s: %q tells of the inside: %q", tt.body, text, leak)
			}
		}
	}
}

func sign() any    { return new(api.SignRequest) }
func verify() any  { return new(api.VerifyRequest) }
func dataKey() any { return new(api.DataKeyRequest) }
func create() any  { return new(api.CreateKeyRequest) }
func update() any  { return new(api.UpdateKeyRequest) }

func TestDecodeTakes(t *testing.T) {
	t.Parallel()
	no := false
	for _, tt := range []struct {
		body string
		want any
	}{
		{` {"payload":"YQ=="} `, api.SignRequest{Payload: []byte("a")}},
		{`{"payload":""}`, api.SignRequest{Payload: []byte{}}},
		{`{"payload":"\/\/8="}`, api.SignRequest{Payload: []byte{0xff, 0xff}}},
		{`{"payload":"bnVsbA==","format":"null"}`, api.SignRequest{Payload: []byte("null"), Format: "null"}},
		{`{}`, api.RotateRequest{}},
		{`{"plaintext":false,"bits":128}`, api.DataKeyRequest{Plaintext: &no, Bits: 128}},
		{`{"name":"ä","policy":{"period":"1h30m"},"tags":{"a":"b"}}`, api.CreateKeyRequest{Name: "ä", Policy: &api.Policy{Period: 5400e9}, Tags: map[string]string{"a": "b"}}},
		{`{"epoch":18446744073709551615}`, api.UpdateKeyRequest{Epoch: 1<<64 - 1}},
	} {
		got := reflect.New(reflect.TypeOf(tt.want))
		if err := strictjson.Decode([]byte(tt.body), got.Interface()); err != nil || !reflect.DeepEqual(got.Elem().Interface(), tt.want) {
			t.Errorf("%s: %+v, %v, want %+v", tt.body, got.Elem(), err, tt.want)
		}
	}
}

// What decode takes, encoding/json takes too and reads alike; what it
// refuses is refused as malformed.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		`{"payload":"YQ==","format":"jws"}`, `{"signature":"","version":3}`, `{"jws":"a.b.c"}`, `{"payload":null}`, `{"hash":"\ud83d\ude00"}`, `{"payload":"\/w=="}`, `{"version":1e1}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var got, want api.VerifyRequest
		if err := strictjson.Decode(body, &got); err != nil {
			if !errors.Is(err, keys.ErrMalformed) {
				t.Errorf("%q: %v", body, err)
			}
			return
		}
		dec := json.NewDecoder(bytes.NewReader(body))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&want); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, encoding/json: %+v, %v", body, got, want, err)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	for name, size := range map[string]int{"256B": 256, "768KiB": 768 << 10} {
		b.Run(name, func(b *testing.B) {
			body := []byte(`{"payload":"` + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("x"), size)) + `"}`)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				var in api.SignRequest
				if err := strictjson.Decode(body, &in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// What was decoded stays when the body's buffer is used again.
func TestDecodedValuesAreCopies(t *testing.T) {
	t.Parallel()
	body := []byte(`{"payload":"YWFh","hash":"sha-256"}`)
	var in api.SignRequest
	if err := strictjson.Decode(body, &in); err != nil {
		t.Fatal(err)
	}
	clear(body)
	if string(in.Payload) != "aaa" || in.Hash != "sha-256" {
		t.Errorf("%+v", in)
	}
}

func TestItems(t *testing.T) {
	t.Parallel()
	type batch struct {
		Items strictjson.Items[api.SignRequest] `json:"items"`
	}
	of := func(n int) []byte {
		return []byte(`{"items":[` + strings.TrimSuffix(strings.Repeat(`{"payload":""},`, n), ",") + `]}`)
	}
	for _, n := range []int{0, 1, api.MaxBatch} {
		var in batch
		if err := strictjson.Decode(of(n), &in); err != nil || len(in.Items) != n {
			t.Errorf("%d items: %d, %v", n, len(in.Items), err)
		}
	}
	var in batch
	if err := strictjson.Decode(of(api.MaxBatch+1), &in); !errors.Is(err, keys.ErrInvalid) {
		t.Errorf("one too many: %v", err)
	}
	for body, says := range map[string]string{
		`{"items":{}}`: `"items" must be an array`, `{"items":"x"}`: `"items" must be an array`, `{"items":null}`: `"items" must be an array`,
		`{"items":[1]}`: `"items[0]" must be an object`, `{"items":[null]}`: `"items[0]" is null`, `{"items":[{},{"payload":"x"}]}`: `"items[1].payload" must be`,
		`{"items":[{},{"nope":1}]}`: `"items[1].nope" is unknown`, `{"items":[{}`: "too early", `{"items":[{}],"items":[]}`: `"items" appears twice`,
	} {
		if err := strictjson.Decode([]byte(body), &in); !errors.Is(err, keys.ErrMalformed) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want it to say %s", body, err, says)
		}
		in = batch{}
	}
}
