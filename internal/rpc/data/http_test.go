package data

import (
	"encoding/base64"
	"encoding/json/v2"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-mq/sluice/internal/consume"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/publish"
)

const messages = "/v1/topics/orders/messages"

func TestHTTPPublishKeepsWhatAMessageIs(t *testing.T) {
	t.Parallel()
	b := start(t)
	code, _, body := b.post("/v1/topics/a%2Fb%23%3F%25%20%E6%97%A5/messages", `{"messages":[
		{"key":"k\u00e9\n","body":"text","headers":{"z":"1","a":{"base64":"/w=="},"l":["x",{"base64":""},"y"]},"tag":"t","id":"i1","partition":"3"},
		{"key_base64":"AP8=","body_base64":"","headers":null},{"key":"","body":null},{}],"timeout":"1.5s","durability":"any"}`)
	if code != 200 {
		t.Fatal(code, body)
	}
	req := b.publisher.last()
	want := []publish.Message{
		{ID: "i1", Key: []byte("ké\n"), Body: []byte("text"), Tag: "t", Partition: "3", Headers: []publish.Header{
			{Name: "z", Value: []byte("1")}, {Name: "a", Value: []byte{0xff}}, {Name: "l", Value: []byte("x")}, {Name: "l", Value: []byte{}}, {Name: "l", Value: []byte("y")},
		}},
		{Key: []byte{0, 0xff}, Body: []byte{}},
		{Key: []byte{}},
		{},
	}
	if d := cmp.Diff(want, req.Messages); d != "" {
		t.Error(d)
	}
	if req.Topic != "a/b#?% 日" || !req.AnyDurability || req.Timeout.String() != "1.5s" {
		t.Errorf("%+v", req)
	}
	if want := `{"results":[{"id":"i1","topic":"a/b#?% 日","cluster":"c","partition":"0","offset":"0","status":"stored","error":null},`; !strings.HasPrefix(body, want) {
		t.Error(body)
	}
}

func TestHTTPPublishStatus(t *testing.T) {
	t.Parallel()
	b := start(t)
	ok := publish.Result{Status: publish.Stored, ID: "a", Cluster: "c", Partition: "1", Offset: 1 << 60}
	failed := func(s publish.Status, e *fault.Error) publish.Result { return publish.Result{Status: s, Err: e} }
	slow := &fault.Error{Reason: fault.SlowDown, Text: "slow", RetryAfter: 1200e6}
	for name, tc := range map[string]struct {
		rs    []publish.Result
		code  int
		retry string
		body  string
	}{
		"all":            {[]publish.Result{ok, ok}, 200, "", `"offset":"1152921504606846976"`},
		"some":           {[]publish.Result{ok, failed(publish.Refused, fault.New(fault.MessageTooLarge, "big"))}, 207, "", `"status":"refused","error":{"code":"message_too_large"`},
		"refused":        {[]publish.Result{failed(publish.Refused, fault.New(fault.TopicNotFound, "topic x"))}, 404, "", `{"error":{"code":"topic_not_found"`},
		"behind failed":  {[]publish.Result{failed(publish.NotSent, fault.New(fault.PrecedingFailed, "p")), failed(publish.NotSent, slow)}, 429, "2", `"retry_after_ms":1200`},
		"late":           {[]publish.Result{failed(publish.MaybeSent, &fault.Error{Reason: fault.DeadlineExceeded, MaybeSent: true})}, 503, "1", `"maybe_sent":true`},
		"leader only":    {[]publish.Result{{Status: publish.StoredNotReplicated, Cluster: "c", Err: fault.New(fault.NotReplicated, "n")}}, 503, "1", `"status":"stored_not_replicated"`},
		"leader is fine": {[]publish.Result{{Status: publish.StoredNotReplicated, Cluster: "c"}}, 200, "", `"status":"stored_not_replicated","error":null`},
	} {
		b.publisher.judge = func(*publish.Request) []publish.Result { return tc.rs }
		code, h, body := b.post(messages, `{"messages":[{"body":"x"}]}`)
		if code != tc.code || h.Get("Retry-After") != tc.retry || !strings.Contains(body, tc.body) || !strings.Contains(body, `"results":[`) {
			t.Errorf("%s: %d %q %s", name, code, h.Get("Retry-After"), body)
		}
	}
}

func TestHTTPBadInput(t *testing.T) {
	t.Parallel()
	b := start(t)
	many := strings.Repeat(`"h":"v",`, 2)
	for name, tc := range map[string]struct {
		path, body string
		header     []string
		code       int
		want       string
	}{
		"empty":              {messages, ``, nil, 400, "empty"},
		"cut off":            {messages, `{"messages":[{"body":"x"`, nil, 400, "in the middle"},
		"not an object":      {messages, `[1]`, nil, 400, "wrong value"},
		"unknown field":      {messages, `{"messages":[{"bodi":"x"}]}`, nil, 400, "unknown field at /messages/0/bodi"},
		"wrong case":         {messages, `{"Messages":[]}`, nil, 400, "unknown field at /Messages"},
		"duplicate field":    {messages, `{"messages":[{"body":"x","body":"y"}]}`, nil, 400, "duplicate"},
		"duplicate header":   {messages, `{"messages":[{"headers":{` + many + `"i":"1"}}]}`, nil, 400, "duplicate"},
		"trailing":           {messages, `{"messages":[{"body":"x"}]} {}`, nil, 400, "JSON"},
		"number body":        {messages, `{"messages":[{"body":5}]}`, nil, 400, "a string or null"},
		"invalid UTF-8":      {messages, "{\"messages\":[{\"body\":\"\xff\"}]}", nil, 400, "UTF-8"},
		"bad escape":         {messages, `{"messages":[{"body":"\ud800"}]}`, nil, 400, "JSON"},
		"bad base64":         {messages, `{"messages":[{"body_base64":"***"}]}`, nil, 400, "base64"},
		"both bodies":        {messages, `{"messages":[{"body":"","body_base64":""}]}`, nil, 400, "message 0: body and body_base64"},
		"header number":      {messages, `{"messages":[{"headers":{"a":1}}]}`, nil, 400, "list of these"},
		"header list":        {messages, `{"messages":[{"headers":{"a":[["x"]]}}]}`, nil, 400, "list of these"},
		"header object":      {messages, `{"messages":[{"headers":{"a":{"base65":"x"}}}]}`, nil, 400, "unknown field"},
		"depth bomb":         {messages, strings.Repeat("[", 100_000), nil, 400, ""},
		"depth bomb inside":  {messages, `{"messages":[{"headers":` + strings.Repeat(`{"a":`, 50_000), nil, 400, ""},
		"huge number":        {messages, `{"messages":[{"body":"x"}],"timeout_ms":1e400}`, nil, 400, "timeout_ms"},
		"negative":           {messages, `{"messages":[{"body":"x"}],"timeout_ms":-1}`, nil, 400, "timeout_ms"},
		"long timeout":       {messages, `{"messages":[{"body":"x"}],"timeout":"61s"}`, nil, 400, "out of range"},
		"timeout twice":      {messages, `{"messages":[{"body":"x"}],"timeout":"1s","timeout_ms":5}`, nil, 400, "both set"},
		"bad duration":       {messages, `{"messages":[{"body":"x"}],"timeout":"5 parsecs"}`, nil, 400, "not a duration"},
		"durability":         {messages, `{"messages":[{"body":"x"}],"durability":"eventually"}`, nil, 400, "durability"},
		"no messages":        {messages, `{"messages":[]}`, nil, 400, "no messages"},
		"too many":           {messages, `{"messages":[` + strings.Repeat(`{},`, 1000) + `{}]}`, nil, 400, "1001 messages"},
		"delay":              {messages, `{"messages":[{"body":"x","delay_ms":5}]}`, nil, 422, "delayed"},
		"form":               {messages, `a=b`, []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "content type"},
		"text":               {messages, `{}`, []string{"Content-Type", "text/plain"}, 415, "content type"},
		"charset":            {messages, `{}`, []string{"Content-Type", "application/json; charset=latin1"}, 400, "charset"},
		"gzip":               {messages, `{}`, []string{"Content-Encoding", "gzip"}, 400, "content-encoding"},
		"key for two":        {messages, `{"messages":[{},{}]}`, []string{"Idempotency-Key", "k"}, 400, "exactly one"},
		"key against id":     {messages, `{"messages":[{"id":"a"}]}`, []string{"Idempotency-Key", "k"}, 400, "differ"},
		"too large":          {messages, strings.Repeat(" ", 13<<20), nil, 413, "larger than"},
		"unknown path":       {"/v1/topics", `{}`, nil, 404, "openapi"},
		"pull without topic": {"/v1/groups/g/pull", `{}`, nil, 400, "no topic"},
		"pull order":         {"/v1/groups/g/pull", `{"topics":["t"],"order":"random"}`, nil, 400, "order"},
		"pull filter":        {"/v1/groups/g/pull", `{"topics":["t"],"filter":"a > 1"}`, nil, 422, "filter"},
		"pull wait":          {"/v1/groups/g/pull", `{"topics":["t"],"wait":"31s"}`, nil, 400, "out of range"},
		"pull max":           {"/v1/groups/g/pull", `{"topics":["t"],"max_messages":1001}`, nil, 400, "max_messages"},
		"pull huge":          {"/v1/groups/g/pull", `{"topics":["t"],"max_messages":99999999999999999999}`, nil, 400, "max_messages"},
		"pull lease":         {"/v1/groups/g/pull", `{"topics":["t"],"lease":"10ms"}`, nil, 400, "lease"},
		"ack nothing":        {"/v1/groups/g/ack", `{"acks":[]}`, nil, 400, "no acks"},
		"no token":           {messages, `{}`, []string{"Authorization", ""}, 401, "no valid credential"},
		"wrong token":        {messages, `{}`, []string{"Authorization", "Bearer x"}, 401, "no valid credential"},
	} {
		code, h, body := b.post(tc.path, tc.body, tc.header...)
		if code != tc.code || !strings.Contains(body, tc.want) || !strings.HasPrefix(body, `{"error":{"code":"`) || h.Get("Content-Type") != "application/json" || strings.Contains(body, "Go ") {
			t.Errorf("%s: %d %s", name, code, body)
		}
	}
	if b.publisher.last() != nil {
		t.Error("something reached the engine")
	}
	hs := make([]string, 10_000)
	for i := range hs {
		hs[i] = fmt.Sprintf(`"h%d":"v"`, i)
	}
	if code, _, body := b.post(messages, `{"messages":[{"headers":{`+strings.Join(hs, ",")+`}}]}`); code != 200 || len(b.publisher.last().Messages[0].Headers) != 10_000 {
		t.Errorf("10,000 headers, which the engine judges: %d %s", code, body)
	}
}

func TestHTTPPullAndAck(t *testing.T) {
	t.Parallel()
	b := start(t)
	d := message(1<<40, 0)
	d.Record = mq.Record{Key: []byte("k"), Body: []byte(`{"a":1}`), Tag: "t", Headers: []mq.Header{{Name: "x", Value: []byte("1")}, {Name: "y", Value: []byte{0xfe}}, {Name: "x", Value: []byte("2")}}}
	d.Record.Timestamp = message(0, 0).Record.Timestamp
	null, bin := message(2, 0), message(3, 0)
	null.Record.Body = nil
	bin.Record.Key, bin.Record.Body = []byte{0xff}, []byte{0xff, 0}
	b.consumer.add(d, null, bin)
	code, _, body := b.post("/v1/groups/50%25%2F../pull", `{"topics":["orders"],"wait_ms":10,"acks":[{"receipt":"","action":"accept"},{"receipt":"`+base64.RawURLEncoding.EncodeToString([]byte("forged"))+`","action":"accept"},{"receipt":"x","action":"eat"}]}`)
	if code != 200 {
		t.Fatal(code, body)
	}
	if b.consumer.opened[0].Group != "50%/.." {
		t.Errorf("group %q", b.consumer.opened[0].Group)
	}
	var got struct {
		Messages   []map[string]any `json:"messages"`
		AckResults []struct {
			Status string         `json:"status"`
			Error  map[string]any `json:"error"`
		} `json:"ack_results"`
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err, body)
	}
	first := got.Messages[0]
	delete(first, "delivered_at")
	if diff := cmp.Diff(map[string]any{
		"id": "id-1099511627776", "key": "k", "body": `{"a":1}`, "headers": map[string]any{"x": []any{"1", "2"}, "y": map[string]any{"base64": "/g=="}}, "tag": "t", "topic": "orders",
		"cluster": "c", "partition": "0", "offset": "1099511627776", "attempt": 1.0, "published_at": "1970-01-01T00:00:01.500Z", "deadline": "1970-01-01T00:00:02.000Z",
		"receipt": base64.RawURLEncoding.EncodeToString([]byte("r-1099511627776")),
	}, first); diff != "" {
		t.Error(diff)
	}
	if v, ok := got.Messages[1]["body"]; !ok || v != nil {
		t.Errorf("null body: %v", got.Messages[1])
	}
	if got.Messages[2]["key_base64"] != "/w==" || got.Messages[2]["body_base64"] != "/wA=" {
		t.Errorf("binary: %v", got.Messages[2])
	}
	var statuses []string
	for _, r := range got.AckResults {
		statuses = append(statuses, r.Status)
	}
	if diff := cmp.Diff([]string{"receipt_invalid", "receipt_invalid", "invalid_argument"}, statuses); diff != "" {
		t.Error(diff)
	}
	code, _, body = b.post("/v1/groups/g/ack", fmt.Sprintf(`{"acks":[{"receipt":%q,"action":"accept"},{"receipt":%q,"action":"release","delay":"5s","cause":"busy"}]}`, first["receipt"], got.Messages[1]["receipt"]))
	if code != 200 || body != `{"results":[{"status":"ok","error":null},{"status":"ok","error":null}]}`+"\n" {
		t.Error(code, body)
	}
	code, _, body = b.post("/v1/groups/other/ack", fmt.Sprintf(`{"acks":[{"receipt":%q,"action":"accept"}]}`, got.Messages[2]["receipt"]))
	if code != http.StatusMultiStatus || !strings.Contains(body, `{"status":"receipt_invalid","error":{"code":"receipt_invalid"`) {
		t.Error(code, body)
	}
	if b.consumer.settled["r-2"] != consume.Release {
		t.Errorf("settled %v", b.consumer.settled)
	}
}

func TestCloudEvents(t *testing.T) {
	t.Parallel()
	b := start(t)
	const event = `{"specversion":"1.0","id":"1","source":"/s","type":"t","partitionkey":"p","n":5,"data":{"a": 1}}`
	code, _, body := b.post(messages, event, "Content-Type", "application/cloudevents+json")
	if code != 200 {
		t.Fatal(code, body)
	}
	want := publish.Message{ID: b.publisher.last().Messages[0].ID, Key: []byte("p"), Body: []byte(`{"a": 1}`), Headers: []publish.Header{
		{Name: "content-type", Value: []byte("application/json")},
		{Name: "ce_id", Value: []byte("1")},
		{Name: "ce_n", Value: []byte("5")},
		{Name: "ce_partitionkey", Value: []byte("p")},
		{Name: "ce_source", Value: []byte("/s")},
		{Name: "ce_specversion", Value: []byte("1.0")},
		{Name: "ce_type", Value: []byte("t")},
	}}
	if d := cmp.Diff(want, b.publisher.last().Messages[0]); d != "" {
		t.Error(d)
	}
	if code, _, body := b.post(messages, "["+event+`,{"specversion":"1.0","id":"2","source":"/s","type":"t","datacontenttype":"text/plain","data":"hi"}]`, "Content-Type", "application/cloudevents-batch+json"); code != 200 || string(b.publisher.last().Messages[1].Body) != "hi" || b.publisher.last().Messages[0].ID != want.ID {
		t.Error(code, body)
	}
	if code, _, body := b.post(messages, "\xff\x00", "Content-Type", "image/png", "Ce-Specversion", "1.0", "Ce-Id", "1", "Ce-Source", "/s", "Ce-Type", "Euro%20%E2%82%AC", "Idempotency-Key", want.ID); code != 200 {
		t.Error(code, body)
	} else if m := b.publisher.last().Messages[0]; string(m.Body) != "\xff\x00" || m.ID != want.ID || string(m.Headers[0].Value) != "image/png" || string(m.Headers[len(m.Headers)-1].Value) != "Euro €" {
		t.Errorf("%+v", m)
	}
	for name, tc := range map[string]string{
		"no id": `{"specversion":"1.0","source":"/s","type":"t"}`, "version": `{"specversion":"0.3","id":"1","source":"/s","type":"t"}`,
		"name": `{"specversion":"1.0","id":"1","source":"/s","type":"t","Bad-Name":"x"}`, "attribute": `{"specversion":"1.0","id":"1","source":"/s","type":"t","x":{}}`,
		"both": `{"specversion":"1.0","id":"1","source":"/s","type":"t","data":1,"data_base64":""}`,
		"deep": `{"specversion":"1.0","id":"1","source":"/s","type":"t","data":` + strings.Repeat("[", 65) + strings.Repeat("]", 65) + `}`,
	} {
		if code, _, body := b.post(messages, tc, "Content-Type", "application/cloudevents+json"); code != 400 {
			t.Errorf("%s: %d %s", name, code, body)
		}
	}
}
