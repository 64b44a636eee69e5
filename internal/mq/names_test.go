package mq

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestPhysicalNames(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ group, want string }{
		{"billing", "billing.retry"},
		{"a/b", "a_x2Fb.retry"},
		{"50%", "50_x25.retry"},
		{"..", "...retry"},
		{"a_x2Fb", "a_x5Fx2Fb.retry"},
		{"日", "_xE6_x97_xA5.retry"},
	} {
		if got := RetryTopic(c.group); string(got) != c.want {
			t.Errorf("RetryTopic(%q) = %q, want %q", c.group, got, c.want)
		}
	}
}

func TestPhysicalNamesAreLegalAndNeverShared(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		gen := rapid.StringOfN(rapid.RuneFrom([]rune("ab_x/2F%日")), 1, 300, -1)
		a, b := gen.Draw(t, "a"), gen.Draw(t, "b")
		na, nb := DeadLetterTopic(a), DeadLetterTopic(b)
		if len(na) > MaxTopicName || !strings.HasSuffix(string(na), ".dlq") {
			t.Fatalf("%q: bad name %q", a, na)
		}
		for i := range len(na) {
			if !legalInTopic(na[i]) {
				t.Fatalf("%q: %q holds %q", a, na, na[i])
			}
		}
		if a != b && na == nb {
			t.Fatalf("%q and %q share %q", a, b, na)
		}
	})
}
