package cli

//go:generate go test -run ^TestCommandReferenceIsCurrent$ -count=1 . -update
