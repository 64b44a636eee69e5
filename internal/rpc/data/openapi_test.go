package data

import (
	"encoding/json/v2"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestOpenAPISaysWhatRequestsTake holds the document against the types that requests are read into.
func TestOpenAPISaysWhatRequestsTake(t *testing.T) {
	t.Parallel()
	var doc struct {
		Paths      map[string]map[string]any
		Components struct {
			Schemas map[string]struct {
				Properties map[string]any
			}
		}
	}
	if err := json.Unmarshal(OpenAPI(), &doc, json.MatchCaseInsensitiveNames(true)); err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string]any{
		"PublishRequest": publishBody{}, "Message": messageBody{}, "PullRequest": pullBody{}, "AckRequest": acksBody{}, "Ack": ackBody{},
	} {
		var fields []string
		for f := range reflect.TypeOf(body).Fields() {
			fields = append(fields, strings.Split(f.Tag.Get("json"), ",")[0])
		}
		slices.Sort(fields)
		if said := slices.Sorted(maps.Keys(doc.Components.Schemas[name].Properties)); !slices.Equal(said, fields) {
			t.Errorf("schema %s has %v, requests take %v", name, said, fields)
		}
	}
	for _, path := range []string{"/v1/topics/{topic}/messages", "/v1/groups/{group}/pull", "/v1/groups/{group}/ack", "/v1/nodes", "/v1/openapi.json"} {
		if len(doc.Paths[path]) == 0 {
			t.Errorf("path %s is not described", path)
		}
	}
}
