package api

import _ "embed" // openapi.yaml

// openAPI is the contract in the words of OpenAPI 3.
//
//go:embed openapi.yaml
var openAPI string

// OpenAPI returns openapi.yaml, which is served at /v1/openapi.yaml.
func OpenAPI() string { return openAPI }
