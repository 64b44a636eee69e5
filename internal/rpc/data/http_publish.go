package data

import (
	"net/http"
	"strings"
	"time"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/publish"
	"github.com/sluice-mq/sluice/internal/rpc"
)

// postMessages publishes: JSON of ours, or CloudEvents (structured, batched, binary).
func (s *Service) postMessages(w http.ResponseWriter, r *http.Request) error {
	req, err := s.readMessages(w, r)
	if err != nil {
		return err
	}
	if req.Topic, err = pathName(r, "topic"); err != nil {
		return err
	}
	switch {
	case len(req.Messages) == 0:
		return invalid("the request has no messages; send at least one")
	case len(req.Messages) > maxMessages:
		return invalid("the request has %d messages; at most %d are allowed, send several requests", len(req.Messages), maxMessages)
	}
	if err := idempotencyKey(r, req.Messages); err != nil {
		return err
	}
	addHTTPTrace(r, req.Messages)
	results, err := s.publish(r.Context(), req)
	if err != nil {
		return err
	}
	return s.writeResults(w, req.Topic, results)
}

// readMessages reads the body in one of its forms.
func (s *Service) readMessages(w http.ResponseWriter, r *http.Request) (*publish.Request, error) {
	t, err := rpc.ContentType(r)
	if err != nil {
		return nil, err
	}
	binary := r.Header.Get("Ce-Specversion") != ""
	switch {
	case t == "application/json" && !binary, t == ceType, t == ceBatchType, binary:
	default:
		return nil, s.wrongType(w, r, "application/json or application/cloudevents+json")
	}
	body, err := rpc.ReadBody(w, r, s.bodyLimit())
	if err != nil {
		return nil, err
	}
	switch {
	case t == ceType:
		m, err := structuredEvent(body)
		return &publish.Request{Messages: []publish.Message{m}}, err
	case t == ceBatchType:
		ms, err := eventBatch(body)
		return &publish.Request{Messages: ms}, err
	case binary:
		m, err := binaryEvent(r.Header, body)
		return &publish.Request{Messages: []publish.Message{m}}, err
	default:
		return decodeMessages(body)
	}
}

// decodeMessages decodes a body of ours; the topic is in the path.
func decodeMessages(body []byte) (*publish.Request, error) {
	var in publishBody
	if err := decodeJSON(body, &in); err != nil {
		return nil, err
	}
	timeout, err := pick("timeout", in.Timeout, uint64(in.TimeoutMS))
	if err != nil {
		return nil, err
	}
	if timeout > maxTimeout {
		return nil, invalid("a timeout of %s is out of range; at most %s is allowed", timeout, maxTimeout)
	}
	req := &publish.Request{Timeout: timeout, Messages: make([]publish.Message, len(in.Messages))}
	switch in.Durability {
	case "", "replicated":
	case "any":
		req.AnyDurability = true
	default:
		return nil, invalid("durability %q is unknown; use replicated or any", cut(in.Durability, 40))
	}
	for i := range in.Messages {
		if req.Messages[i], err = in.Messages[i].message(); err != nil {
			return nil, fault.New(fault.ReasonOf(err), "message %d: %s", i, textOf(err))
		}
	}
	return req, nil
}

func textOf(err error) string {
	if e, ok := err.(*fault.Error); ok { //nolint:errorlint // made in this package, not wrapped
		return e.Text
	}
	return err.Error()
}

// idempotencyKey makes the header the id of the only message.
func idempotencyKey(r *http.Request, ms []publish.Message) error {
	key := r.Header.Get("Idempotency-Key")
	switch {
	case key == "":
		return nil
	case len(ms) != 1:
		return invalid("Idempotency-Key goes with exactly one message, this request has %d; give each message an id instead", len(ms))
	case ms[0].ID != "" && ms[0].ID != key:
		return invalid("Idempotency-Key and the message's id differ; send one of them")
	}
	ms[0].ID = key
	return nil
}

// writeResults answers 200 where all are stored as asked, 207 where some are, else the status of the first cause.
func (s *Service) writeResults(w http.ResponseWriter, topic string, rs []publish.Result) error {
	stored := 0
	var first *fault.Error
	for i := range rs {
		switch {
		case rs[i].Err == nil:
			stored++
		case first == nil, first.Reason == fault.PrecedingFailed && rs[i].Err.Reason != fault.PrecedingFailed:
			first = rs[i].Err
		}
	}
	b := make([]byte, 0, 64+len(rs)*192)
	b = append(b, '{')
	status := http.StatusOK
	switch {
	case stored == len(rs):
	case stored > 0:
		status = http.StatusMultiStatus
	default:
		first = s.faults.Fault(first)
		// Whoever reads no further than the status is told either "not like this" or "later", never "done".
		if status = rpc.CodeOf(first.Reason).HTTP; status >= http.StatusInternalServerError || status == 499 {
			status = http.StatusServiceUnavailable
		}
		rpc.SetErrorHeaders(w.Header(), status, first)
		b = append(rpc.AppendError(append(b, `"error":`...), first), ',')
	}
	b = append(s.appendResults(b, topic, rs), "}\n"...)
	return writeJSON(w, status, b)
}

// addHTTPTrace takes W3C trace context from the request's headers into the metadata's place.
func addHTTPTrace(r *http.Request, ms []publish.Message) {
	addTraceFrom(r.Context(), r.Header.Get(traceparent), strings.Join(r.Header.Values("Tracestate"), ","), ms)
}

// now is the wall clock in the resolution of the API.
func (s *Service) now() time.Time { return s.deps.Now().Truncate(time.Millisecond) }
