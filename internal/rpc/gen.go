package rpc

//go:generate go test -run ^TestErrorReferenceIsCurrent$ -count=1 . -update
