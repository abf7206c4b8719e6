/* A PKCS#11 module that has one key for each way in which modules are odd. */
#include <string.h>

typedef unsigned long ul;

static ul key, mechanism[3], parameter[6], calls;

static ul init(ul session, ul *m, ul k)
{
	if (session != 7)
		return 0xB3; /* CKR_SESSION_HANDLE_INVALID */
	if (k == 99)
		return 0x60; /* CKR_KEY_HANDLE_INVALID */
	key = k;
	calls = 0;
	memcpy(mechanism, m, sizeof mechanism);
	memset(parameter, 0, sizeof parameter);
	if (m[1])
		memcpy(parameter, (void *)m[1], m[2] < sizeof parameter ? m[2] : sizeof parameter);
	return 0;
}

static ul use(ul session, unsigned char *in, ul in_len, unsigned char *out, ul *out_len)
{
	calls++;
	if (!in || !out)
		return 7; /* CKR_ARGUMENTS_BAD */
	switch (key) {
	case 1: /* echoes */
		memcpy(out, in, in_len);
		*out_len = in_len;
		return 0;
	case 2: /* needs more room than anybody thinks */
		if (*out_len < 100) {
			*out_len = 100;
			return 0x150; /* CKR_BUFFER_TOO_SMALL */
		}
		memset(out, 2, 100);
		*out_len = 100;
		return 0;
	case 3: /* says that it wrote more than there was room for */
		*out_len += 1;
		return 0;
	case 4: /* never has enough */
		*out_len = calls == 1 ? 100 : 200;
		return 0x150;
	case 5: /* does not say how much it needs */
		*out_len = ~0ul;
		return 0x150;
	case 6: /* needs more than is sane */
		*out_len = 1ul << 40;
		return 0x150;
	case 7: /* makes the IV */
		memset((void *)parameter[0], 0x77, parameter[1]);
		*out_len = 0;
		return 0;
	case 8: /* shows the mechanism and its parameter, with what pointers point to as its length */
		memcpy(out, mechanism, sizeof(ul));
		memcpy(out + sizeof(ul), &mechanism[2], sizeof(ul));
		memcpy(out + 2 * sizeof(ul), parameter, sizeof parameter);
		*out_len = 8 * sizeof(ul);
		return 0;
	case 9: /* echoes the AAD */
		memcpy(out, (void *)parameter[3], parameter[4]);
		*out_len = parameter[4];
		return 0;
	}
	return 5; /* CKR_GENERAL_ERROR */
}

static ul random(ul session, unsigned char *out, ul len)
{
	if (session != 7)
		return 0xB3;
	memset(out, 0x55, len);
	return 0;
}

static struct { unsigned char major, minor; void *f[68]; } list = {2, 40};

ul C_GetFunctionList(void **out)
{
	list.f[29] = list.f[33] = list.f[42] = init;
	list.f[30] = list.f[34] = list.f[43] = use;
#ifndef WITHOUT_RANDOM
	list.f[64] = random;
#endif
	*out = &list;
	return 0;
}
