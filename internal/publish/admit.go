package publish

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
	"uuid"

	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
)

// admit judges the request as a whole and reserves its bytes. It returns false
// when the batch ended here.
func (b *batch) admit(who auth.Who) bool {
	e := b.e
	if !e.enter() {
		b.failAll(NotSent, fault.New(fault.GoAway, "the node is stopping; publish through another one"))
		return false
	}
	timeout, err := timeoutOf(b.req.Timeout)
	if err != nil {
		b.failAll(Refused, err)
		return false
	}
	b.deadline = b.start.Add(timeout)
	if d, ok := b.caller.Deadline(); ok && d.Before(b.deadline) {
		b.deadline = d
		timeout = time.Until(d)
	}
	if n := len(b.req.Messages); n > MaxMessages {
		b.failAll(Refused, fault.New(fault.InvalidArgument, "the request has %d messages; send at most %d in one", n, MaxMessages))
		return false
	}
	for i := range b.req.Messages {
		b.bytes += int64(messageBytes(&b.req.Messages[i]))
	}
	if b.bytes > MaxRequestBytes {
		n := b.bytes
		b.bytes = 0
		b.failAll(Refused, fault.New(fault.MessageTooLarge, "the request has %d bytes; send at most %d in one", n, MaxRequestBytes))
		return false
	}
	if b.app, err = e.limits.take(who.App, b.bytes); err != nil {
		e.m.slowedDown.Inc()
		b.failAll(NotSent, err)
		return false
	}
	b.ctx, b.release = e.deadlines.at(b.deadline, timeout)
	return true
}

func timeoutOf(d time.Duration) (time.Duration, *fault.Error) {
	switch {
	case d == 0:
		return DefaultTimeout, nil
	case d < 0 || d > MaxTimeout:
		return 0, fault.New(fault.InvalidArgument, "timeout is %s; from 1ms to %s is allowed", d, MaxTimeout)
	}
	return d, nil
}

// admitMessages takes the request's share of the topic's and the app's rates,
// then judges each message for itself: a bad one never fails its neighbours
// (but the later ones of its key; send sees to that). It returns false when the
// batch ended here.
func (b *batch) admitMessages() bool {
	n := len(b.req.Messages)
	// The app first: what it is refused must not eat into what other apps share of the topic.
	if wait, ok := b.app.rates.take(b.start, n, b.bytes); !ok {
		b.e.m.slowedDown.Inc()
		b.failAll(NotSent, slowDown(wait, "the app has reached its rate at this node; send again after the time given"))
		return false
	}
	if wait, ok := b.topic.rates.take(b.start, n, b.bytes); !ok {
		b.e.m.slowedDown.Inc()
		b.failAll(NotSent, slowDown(wait, "topic %s has reached its rate at this node; send again after the time given", b.req.Topic))
		return false
	}
	var made []byte // the ids made here, one after the other
	for i := range b.req.Messages {
		m := &b.req.Messages[i]
		if err := checkMessage(m, b.state); err != nil {
			b.fail(i, Refused, err)
			continue
		}
		if m.ID != "" {
			b.results[i].ID = m.ID
		} else if b.state.caps.Headers {
			if made == nil {
				made = make([]byte, 0, 36*(n-i))
			}
			made, _ = uuid.NewV7().AppendText(made) // a UUID always has a text
		}
	}
	b.nameMade(string(made))
	return true
}

// nameMade hands the made ids, 36 characters each, to the messages that have
// none yet; one string holds them all.
func (b *batch) nameMade(made string) {
	for i := 0; made != ""; i++ {
		if r := &b.results[i]; r.ID == "" && r.Status == 0 {
			r.ID, made = made[:36], made[36:]
		}
	}
}

// messageBytes is what a caller controls of a message's size.
func messageBytes(m *Message) int {
	n := len(m.Key) + len(m.Body) + len(m.Tag) + max(0, len(m.ID)-36)
	for i := range m.Headers {
		n += len(m.Headers[i].Name) + len(m.Headers[i].Value)
	}
	return n
}

// checkMessage says why a message can never be stored as it is; nil: it can.
// Whether its partition exists is placement's to say.
func checkMessage(m *Message, s *targetState) *fault.Error {
	if n := messageBytes(m); n > s.limit {
		return fault.New(fault.MessageTooLarge, "the message has %d bytes (key, body, headers and tag); topic %s takes %d: send less", n, s.t.topic, s.limit)
	}
	if m.ID != "" && !printable(m.ID, MaxIDLength) {
		return fault.New(fault.InvalidArgument, "the message's id must be 1 to %d printable characters", MaxIDLength)
	}
	if len(m.Headers) == 0 && m.Tag == "" {
		return nil
	}
	if !s.caps.Headers {
		return fault.New(fault.Unsupported, "topic %s is on cluster %s (%s), whose brokers carry neither headers nor tags: leave them out", s.t.topic, s.t.cluster, s.caps.Version)
	}
	if m.Tag != "" && (len(m.Tag) > MaxTagBytes || !printable(m.Tag, MaxTagBytes) || strings.Contains(m.Tag, "||")) {
		return fault.New(fault.InvalidArgument, "the tag must be at most %d bytes of printable UTF-8 without \"||\"", MaxTagBytes)
	}
	return checkHeaders(m.Headers)
}

func checkHeaders(hs []Header) *fault.Error {
	if len(hs) > MaxHeaders {
		return fault.New(fault.InvalidArgument, "the message has %d headers; at most %d are allowed", len(hs), MaxHeaders)
	}
	total := 0
	for i := range hs {
		h := &hs[i]
		total += len(h.Name) + len(h.Value)
		switch {
		case h.Name == "":
			return fault.New(fault.InvalidArgument, "header %d has no name", i+1)
		case !utf8.ValidString(h.Name):
			return fault.New(fault.InvalidArgument, "the name of header %d is not valid UTF-8: %.40q", i+1, h.Name)
		case reserved(h.Name):
			return fault.New(fault.ReservedHeader, "header %.60q: names that begin with \"sluice-\" are reserved; choose another", h.Name)
		}
	}
	if total > MaxHeaderBytes {
		return fault.New(fault.InvalidArgument, "the message's headers have %d bytes; at most %d are allowed", total, MaxHeaderBytes)
	}
	return nil
}

func reserved(name string) bool {
	n := len(mq.HeaderPrefix)
	return len(name) >= n && strings.EqualFold(name[:n], mq.HeaderPrefix)
}

// printable tells whether s is valid UTF-8 of at most n printable characters.
func printable(s string, n int) bool {
	count := 0
	for i, r := range s {
		if count++; count > n || !unicode.IsPrint(r) {
			return false
		}
		if r == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(s[i:]); size == 1 {
				return false
			}
		}
	}
	return true
}

// checkTopicName says what is wrong with the name of a topic that does not
// exist; nil: the name is fine.
func checkTopicName(name string) *fault.Error {
	if name == "" {
		return fault.New(fault.InvalidArgument, "the request names no topic")
	}
	bad := len(name) > MaxTopicLength || name == "." || name == ".."
	for i := 0; i < len(name) && !bad; i++ {
		c := name[i]
		bad = (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-'
	}
	if bad {
		return fault.New(fault.InvalidArgument, "topic %.60q: a name is 1 to %d letters, digits, dots, underscores and hyphens, and neither \".\" nor \"..\"", name, MaxTopicLength)
	}
	return nil
}
