package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mq/sluice/test/harness"
)

// call does what curl does.
func call(t *testing.T, method, url, token, body string, header ...string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	client := &http.Client{Timeout: 40 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

func get(t *testing.T, n *harness.Node, path, token string) (int, string) {
	t.Helper()
	status, _, body := call(t, http.MethodGet, "http://"+n.HTTP+path, token, "")
	return status, body
}

func post(t *testing.T, n *harness.Node, path, token, body string) (int, string) {
	t.Helper()
	status, _, text := call(t, http.MethodPost, "http://"+n.HTTP+path, token, body)
	return status, text
}

// answer is what the paths of the API answer.
type answer struct {
	Results []struct {
		ID, Partition, Offset, Status string
		Error                         *struct{ Code, Message string }
	}
	Messages []struct {
		ID, Key, Body, Receipt, Topic string
		Attempt                       int
	}
	Error *struct {
		Code, Message string
	}
}

func parse(t *testing.T, text string) answer {
	t.Helper()
	var a answer
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return a
}

func TestPublishPullAndAckOverHTTP(t *testing.T) {
	t.Parallel()
	n := harness.Start(t, "--dev")
	status, text := post(t, n, "/v1/topics/web/messages", "", `{"messages":[{"key":"k","body":"one","headers":{"h":"1"}},{"body_base64":"AP8="}]}`)
	if a := parse(t, text); status != http.StatusOK || len(a.Results) != 2 || a.Results[0].Status != "stored" || a.Results[1].Status != "stored" {
		t.Fatalf("%d %s", status, text)
	}

	status, text = post(t, n, "/v1/topics/web/messages", "", `{"messages":[{"body":"fine"},{"body":"bad","headers":{"sluice-id":"x"}},{"body":"bad","partition":"99"}]}`)
	a := parse(t, text)
	if status != http.StatusMultiStatus || len(a.Results) != 3 || a.Results[0].Status != "stored" {
		t.Fatalf("some stored: %d %s", status, text)
	}
	if a.Results[1].Status != "refused" || a.Results[1].Error.Code != "reserved_header" || a.Results[2].Error.Code != "partition_not_found" {
		t.Errorf("%s", text)
	}
	if status, text = post(t, n, "/v1/topics/web/messages", "", `{"messages":[{"body":"bad","partition":"99"}]}`); status < 400 {
		t.Errorf("none stored: %d %s", status, text)
	}

	status, text = post(t, n, "/v1/groups/g/pull", "", `{"topics":["web"],"max_messages":10,"wait":"10s"}`)
	a = parse(t, text)
	if status != http.StatusOK || len(a.Messages) == 0 {
		t.Fatalf("pull: %d %s", status, text)
	}
	ack := `{"acks":[{"receipt":"` + a.Messages[0].Receipt + `","action":"accept"},{"receipt":"bm9uZQ","action":"accept"}]}`
	status, text = post(t, n, "/v1/groups/g/ack", "", ack)
	if r := parse(t, text); status != http.StatusMultiStatus || r.Results[0].Status != "ok" || r.Results[1].Error == nil || r.Results[1].Error.Code != "receipt_invalid" {
		t.Errorf("ack: %d %s", status, text)
	}
	_, text = post(t, n, "/v1/groups/other/ack", "", `{"acks":[{"receipt":"`+a.Messages[0].Receipt+`","action":"accept"}]}`)
	if r := parse(t, text); len(r.Results) != 1 || r.Results[0].Status != "receipt_invalid" {
		t.Errorf("a receipt of another group was taken: %s", text)
	}
}

func TestBadRequestsOverHTTPAreNamed(t *testing.T) {
	t.Parallel()
	n := harness.Start(t, "--dev")
	for _, tc := range []struct {
		path, body string
		status     int
		code, text string
	}{
		{"/v1/topics/web/messages", `{"messages":[{"boody":"x"}]}`, 400, "invalid_argument", "boody"},
		{"/v1/topics/web/messages", `{"messages":`, 400, "invalid_argument", ""},
		{"/v1/topics/web/messages", `[1]`, 400, "invalid_argument", ""},
		{"/v1/topics/web/messages", `{"messages":[]}`, 400, "invalid_argument", ""},
		{"/v1/groups/g/pull", `{"topics":[]}`, 400, "invalid_argument", ""},
		{"/v1/groups/g/pull", `{"topics":["web"],"order":"sideways"}`, 400, "invalid_argument", ""},
		{"/v1/groups/g/ack", `{"acks":{}}`, 400, "invalid_argument", ""},
		{"/v1/nothing", `{}`, 404, "", ""},
	} {
		status, text := post(t, n, tc.path, "", tc.body)
		a := parse(t, text)
		if status != tc.status || a.Error == nil || tc.code != "" && a.Error.Code != tc.code || !strings.Contains(text, tc.text) {
			t.Errorf("%s %s: %d %s", tc.path, tc.body, status, text)
		}
	}
	if status, _, _ := call(t, http.MethodGet, "http://"+n.HTTP+"/v1/topics/web/messages", "", ""); status != http.StatusMethodNotAllowed {
		t.Errorf("GET on a path for POST: %d", status)
	}
}

func TestIdempotencyKeyIsTheIDOfOneMessage(t *testing.T) {
	t.Parallel()
	n := harness.Start(t, "--dev")
	status, _, text := call(t, http.MethodPost, "http://"+n.HTTP+"/v1/topics/web/messages", "", `{"messages":[{"body":"x"}]}`, "Idempotency-Key", "order-17")
	if a := parse(t, text); status != http.StatusOK || a.Results[0].ID != "order-17" {
		t.Errorf("%d %s", status, text)
	}
}

func TestMetricsAndOpenAPIAreServed(t *testing.T) {
	t.Parallel()
	n := harness.Start(t, "--dev")
	n.Must(within(t, time.Minute), "x\n", "pub", "demo")
	if status, text := get(t, n, "/metrics", ""); status != http.StatusOK || !strings.Contains(text, "sluice_publish_") || !strings.Contains(text, "sluice_build_info") {
		t.Errorf("metrics: %d, %d bytes", status, len(text))
	}
	status, text := get(t, n, "/v1/openapi.json", "")
	var doc map[string]any
	if err := json.Unmarshal([]byte(text), &doc); status != http.StatusOK || err != nil || doc["openapi"] == nil {
		t.Errorf("openapi: %d, %v", status, err)
	}
}
