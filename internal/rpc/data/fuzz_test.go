package data

import (
	"testing"

	"github.com/sluice-mq/sluice/internal/fault"
)

// callersFault holds that whatever is wrong with a body is the caller's to mend, and is told as such.
func callersFault(t *testing.T, err error) {
	t.Helper()
	switch r := fault.ReasonOf(err); r {
	case "", fault.InvalidArgument, fault.Unsupported, fault.MessageTooLarge:
	default:
		t.Errorf("reason %s: %v", r, err)
	}
}

func FuzzPublishBody(f *testing.F) {
	for _, s := range []string{
		`{"messages":[{"key":"k","body":"b","headers":{"a":"1","b":{"base64":"AA=="},"c":["1",{"base64":""}]},"tag":"t"}],"timeout":"5s"}`,
		`{"messages":[{"key_base64":"//8=","body_base64":null}],"timeout_ms":5000,"durability":"any"}`,
		`{"messages":[{"body":null}]}`, `{"messages":null}`, `{"messages":[{"unknown":1}]}`, `[]`, `{"messages":[{"body":"\ud800"}]}`, `{"timeout":1e99}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		req, err := decodeMessages(body)
		callersFault(t, err)
		if err == nil && req == nil {
			t.Error("neither a request nor an error")
		}
	})
}

func FuzzCloudEvents(f *testing.F) {
	f.Add([]byte(`{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"a":1}}`))
	f.Add([]byte(`{"specversion":"1.0","id":"1","source":"/s","type":"t","data_base64":"AA=="}`))
	f.Add([]byte(`[{"specversion":"1.0"},{}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		_, err := structuredEvent(body)
		callersFault(t, err)
		_, err = eventBatch(body)
		callersFault(t, err)
	})
}

func FuzzPullBody(f *testing.F) {
	f.Add([]byte(`{"topics":["t"],"max_messages":100,"wait":"5s","order":"key","lease":"30s","acks":[{"receipt":"AA","action":"accept"}]}`))
	f.Add([]byte(`{"topics":["t"],"wait_ms":5,"from":"latest","acks":[{"receipt":"","action":"release","delay":"1m","cause":"x"}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var in pullBody
		callersFault(t, decodeJSON(body, &in))
		decodeAckBodies(in.Acks)
	})
}
