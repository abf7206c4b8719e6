#include <stdlib.h>
#include <string.h>

#include "fault.h"

/* In the order of CK_FUNCTION_LIST. The letters are the arguments: t slot,
 * s session, h object, H pointer to a new object, o output buffer (NULL asks
 * for its size) followed by l pointer to its length, . anything else. */
#define TABLE(X) \
	X("C_Initialize", ".") \
	X("C_Finalize", ".") \
	X("C_GetInfo", ".") \
	X("C_GetFunctionList", ".") \
	X("C_GetSlotList", ".ol") \
	X("C_GetSlotInfo", "t.") \
	X("C_GetTokenInfo", "t.") \
	X("C_GetMechanismList", "tol") \
	X("C_GetMechanismInfo", "t..") \
	X("C_InitToken", "t...") \
	X("C_InitPIN", "s..") \
	X("C_SetPIN", "s....") \
	X("C_OpenSession", "t....") \
	X("C_CloseSession", "s") \
	X("C_CloseAllSessions", "t") \
	X("C_GetSessionInfo", "s.") \
	X("C_GetOperationState", "sol") \
	X("C_SetOperationState", "s..hh") \
	X("C_Login", "s...") \
	X("C_Logout", "s") \
	X("C_CreateObject", "s..H") \
	X("C_CopyObject", "sh..H") \
	X("C_DestroyObject", "sh") \
	X("C_GetObjectSize", "sh.") \
	X("C_GetAttributeValue", "sh..") \
	X("C_SetAttributeValue", "sh..") \
	X("C_FindObjectsInit", "s..") \
	X("C_FindObjects", "s...") \
	X("C_FindObjectsFinal", "s") \
	X("C_EncryptInit", "s.h") \
	X("C_Encrypt", "s..ol") \
	X("C_EncryptUpdate", "s..ol") \
	X("C_EncryptFinal", "sol") \
	X("C_DecryptInit", "s.h") \
	X("C_Decrypt", "s..ol") \
	X("C_DecryptUpdate", "s..ol") \
	X("C_DecryptFinal", "sol") \
	X("C_DigestInit", "s.") \
	X("C_Digest", "s..ol") \
	X("C_DigestUpdate", "s..") \
	X("C_DigestKey", "sh") \
	X("C_DigestFinal", "sol") \
	X("C_SignInit", "s.h") \
	X("C_Sign", "s..ol") \
	X("C_SignUpdate", "s..") \
	X("C_SignFinal", "sol") \
	X("C_SignRecoverInit", "s.h") \
	X("C_SignRecover", "s..ol") \
	X("C_VerifyInit", "s.h") \
	X("C_Verify", "s....") \
	X("C_VerifyUpdate", "s..") \
	X("C_VerifyFinal", "s..") \
	X("C_VerifyRecoverInit", "s.h") \
	X("C_VerifyRecover", "s..ol") \
	X("C_DigestEncryptUpdate", "s..ol") \
	X("C_DecryptDigestUpdate", "s..ol") \
	X("C_SignEncryptUpdate", "s..ol") \
	X("C_DecryptVerifyUpdate", "s..ol") \
	X("C_GenerateKey", "s...H") \
	X("C_GenerateKeyPair", "s.....HH") \
	X("C_WrapKey", "s.hhol") \
	X("C_UnwrapKey", "s.h....H") \
	X("C_DeriveKey", "s.h..H") \
	X("C_SeedRandom", "s..") \
	X("C_GenerateRandom", "s..") \
	X("C_GetFunctionStatus", "s") \
	X("C_CancelFunction", "s") \
	X("C_WaitForSlotEvent", "...")

#define NAME(name, kind) name,
#define KIND(name, kind) kind,
const char *const names[FUNCTIONS] = { TABLE(NAME) };
const char *const kinds[FUNCTIONS] = { TABLE(KIND) };

static const struct { const char *name; long code; } codes[] = {
	{"CKR_OK", 0x0}, {"CKR_CANCEL", 0x1}, {"CKR_HOST_MEMORY", 0x2}, {"CKR_SLOT_ID_INVALID", 0x3}, {"CKR_GENERAL_ERROR", 0x5},
	{"CKR_FUNCTION_FAILED", 0x6}, {"CKR_ARGUMENTS_BAD", 0x7}, {"CKR_CANT_LOCK", 0xA}, {"CKR_ATTRIBUTE_READ_ONLY", 0x10},
	{"CKR_ATTRIBUTE_SENSITIVE", 0x11}, {"CKR_ATTRIBUTE_TYPE_INVALID", 0x12}, {"CKR_ATTRIBUTE_VALUE_INVALID", 0x13},
	{"CKR_ACTION_PROHIBITED", 0x1B}, {"CKR_DATA_INVALID", 0x20}, {"CKR_DATA_LEN_RANGE", 0x21}, {"CKR_DEVICE_ERROR", 0x30},
	{"CKR_DEVICE_MEMORY", 0x31}, {"CKR_DEVICE_REMOVED", 0x32}, {"CKR_ENCRYPTED_DATA_INVALID", 0x40},
	{"CKR_ENCRYPTED_DATA_LEN_RANGE", 0x41}, {"CKR_FUNCTION_CANCELED", 0x50}, {"CKR_FUNCTION_NOT_PARALLEL", 0x51},
	{"CKR_FUNCTION_NOT_SUPPORTED", 0x54}, {"CKR_KEY_HANDLE_INVALID", 0x60}, {"CKR_KEY_SIZE_RANGE", 0x62},
	{"CKR_KEY_TYPE_INCONSISTENT", 0x63}, {"CKR_KEY_FUNCTION_NOT_PERMITTED", 0x68}, {"CKR_MECHANISM_INVALID", 0x70},
	{"CKR_MECHANISM_PARAM_INVALID", 0x71}, {"CKR_OBJECT_HANDLE_INVALID", 0x82}, {"CKR_OPERATION_ACTIVE", 0x90},
	{"CKR_OPERATION_NOT_INITIALIZED", 0x91}, {"CKR_PIN_INCORRECT", 0xA0}, {"CKR_PIN_INVALID", 0xA1}, {"CKR_PIN_LEN_RANGE", 0xA2},
	{"CKR_PIN_EXPIRED", 0xA3}, {"CKR_PIN_LOCKED", 0xA4}, {"CKR_SESSION_CLOSED", 0xB0}, {"CKR_SESSION_COUNT", 0xB1},
	{"CKR_SESSION_HANDLE_INVALID", 0xB3}, {"CKR_SESSION_READ_ONLY", 0xB5}, {"CKR_SESSION_EXISTS", 0xB6},
	{"CKR_SIGNATURE_INVALID", 0xC0}, {"CKR_TEMPLATE_INCONSISTENT", 0xD1}, {"CKR_TOKEN_NOT_PRESENT", 0xE0},
	{"CKR_TOKEN_NOT_RECOGNIZED", 0xE1}, {"CKR_TOKEN_WRITE_PROTECTED", 0xE2}, {"CKR_USER_ALREADY_LOGGED_IN", 0x100},
	{"CKR_USER_NOT_LOGGED_IN", 0x101}, {"CKR_USER_PIN_NOT_INITIALIZED", 0x102}, {"CKR_USER_TYPE_INVALID", 0x103},
	{"CKR_RANDOM_NO_RNG", 0x121}, {"CKR_BUFFER_TOO_SMALL", 0x150}, {"CKR_CRYPTOKI_NOT_INITIALIZED", 0x190},
	{"CKR_CRYPTOKI_ALREADY_INITIALIZED", 0x191}, {"CKR_MUTEX_BAD", 0x1A0}, {"CKR_FUNCTION_REJECTED", 0x200},
	{"CKR_VENDOR_DEFINED", 0x80000000L},
};

int function_named(const char *name)
{
	for (int i = 0; i < FUNCTIONS; i++)
		if (strcmp(names[i], name) == 0)
			return i;
	return -1;
}

long code_named(const char *name)
{
	for (unsigned i = 0; i < sizeof codes / sizeof *codes; i++)
		if (strcmp(codes[i].name, name) == 0)
			return codes[i].code;
	char *end;
	long code = strtol(name, &end, 0);
	return *end == '\0' && end != name && code >= 0 ? code : -1;
}

/* Whoever asks for the size of an output will call again with a buffer. Only
 * that call is counted and meets orders. */
bool asks_size(int function, const ul *v)
{
	const char *o = strchr(kinds[function], 'o');
	return o != NULL && v[o - kinds[function]] == 0;
}
