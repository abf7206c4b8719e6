package wycheproof

import "slices"

// exception are vectors that Keyhole decides otherwise, and why. What is
// "acceptable" counts as valid unless it stands here. Vectors of a suite whose
// parameters Keyhole does not have count as invalid.
type exception struct {
	file    string
	ids     []int
	because string
	met     bool
}

var exceptions = slices.Concat(
	each("the DigestInfo lacks its NULL: acceptable, and refused (RFC 8017, A.2.4: generators must write it)", 8,
		"rsa_signature_2048_sha256_test.json", "rsa_signature_2048_sha384_test.json", "rsa_signature_2048_sha512_test.json",
		"rsa_signature_3072_sha256_test.json", "rsa_signature_3072_sha384_test.json", "rsa_signature_3072_sha512_test.json",
		"rsa_signature_4096_sha256_test.json", "rsa_signature_4096_sha384_test.json", "rsa_signature_4096_sha512_test.json"),
	[]*exception{
		{file: "rsa_signature_2048_sha224_test.json", ids: []int{219}, because: "of the file's errors, this one is to have been made with SHA-256: it is RS256"},
		{file: "rsa_signature_2048_sha512_256_test.json", ids: []int{221}, because: "the same"},
		{file: "rsa_signature_2048_sha3_256_test.json", ids: []int{221}, because: "the same"},
		{file: "rsa_pss_2048_sha256_mgf1_0_test.json", ids: []int{69}, because: "of the file's errors, this one is to have a salt of 32 bytes: it is PS256"},
		{file: "rsa_pkcs1_2048_sig_gen_test.json", ids: []int{154, 155, 158}, because: "the public exponent is 3: acceptable; Keyhole's keys have 65537"},
		{file: "rsa_pkcs1_3072_sig_gen_test.json", ids: []int{156, 157}, because: "the public exponent is 3: acceptable; Keyhole's keys have 65537"},

		{file: "json_web_signature_test.json", ids: []int{346, 350}, because: "the key is for PS256 and the signature by PS384: a version has one algorithm (RFC 8725, 3.1)"},
		{file: "json_web_signature_test.json", ids: []int{347, 351}, because: "the key's alg is ES521, which is no algorithm"},
		{file: "json_web_signature_test.json", ids: []int{367, 370}, because: "the padding that these are to have is not there: they are 357, byte for byte"},
		{file: "json_web_signature_test.json", ids: []int{372, 373}, because: "there is a character that base64url does not have: refused (RFC 7515, 5.2)"},

		{file: "json_web_key_test.json", ids: []int{2, 13, 14, 15}, because: "tokens by a shared secret are not taken: whoever checks them could make them"},
		{file: "json_web_crypto_test.json", ids: []int{48}, because: "the vector is of a set of keys; a version has one"},
	},
)

func each(because string, id int, files ...string) []*exception {
	var all []*exception
	for _, f := range files {
		all = append(all, &exception{file: f, ids: []int{id}, because: because})
	}
	return all
}
